"""Commands run the program they are given, and refuse one that is for something else."""

import argparse
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import sim.bench.layers
import sim.cycles.command
import sim.segment
from sim.compiler import program_choice
from sim.compiler.compile import Program, compile_encoder
from sim.compiler.folder import PROGRAM_FILE, ModelIdentity, write_program
from sim.compiler.program_choice import chosen_program
from sim.contract.errors import UserError
from sim.cycles.again import bytes_again
from sim.cycles.memory import memory_rate
from sim.cycles.model import program_cycles
from sim.machine.presets import PRESETS

MANIFEST = {"model": "toy", "bits": 4, "tensors_sha256": "0" * 64}


@pytest.fixture(scope="module")
def program(toy_sam_vit: Any) -> Program:
    return compile_encoder(toy_sam_vit.parameters, toy_sam_vit.architecture, PRESETS["tiny"])


@pytest.fixture
def named(program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the program, where nothing can be compiled."""
    write_program(tmp_path / "program", program, ModelIdentity.of_manifest(MANIFEST))
    monkeypatch.setattr(program_choice, "compile_encoder", None)
    return tmp_path / "program"


def choose(manifest: dict[str, Any] = MANIFEST, **options: Any) -> Program:
    given = {"model": Path("model"), "preset": None, "memory_mb": None, "program": None} | options
    folder: Any = SimpleNamespace(manifest=manifest)
    model: Any = None
    return chosen_program(argparse.Namespace(**given), folder, model)


@pytest.mark.parametrize("options", [{}, {"preset": "tiny"}, {"preset": "tiny", "memory_mb": 8}])
def test_the_named_program_as_it_stands(program: Program, named: Path, options: dict[str, Any]) -> None:
    assert choose(program=named, **options) == program


@pytest.mark.parametrize(
    ("manifest", "options", "what"),
    [
        (MANIFEST | {"tensors_sha256": "1" * 64}, {}, "another model"),
        (MANIFEST | {"bits": 8}, {}, "another model"),
        (MANIFEST, {"preset": "small"}, "is for preset tiny, not small"),
        (MANIFEST, {"memory_mb": 16}, "is for 8 MB of memory, not 16"),
    ],
)
def test_a_program_of_something_else_is_refused(
    named: Path, manifest: dict[str, Any], options: dict[str, Any], what: str
) -> None:
    with pytest.raises(UserError, match=what) as caught:
        choose(manifest, program=named, **options)
    assert "\n" not in str(caught.value)


def test_a_program_of_another_schema_is_refused(named: Path) -> None:
    document = json.loads((named / PROGRAM_FILE).read_text())
    (named / PROGRAM_FILE).write_text(json.dumps(document | {"schema_version": 99}))
    with pytest.raises(UserError, match="99"):
        choose(program=named)


def test_neither_preset_nor_program() -> None:
    with pytest.raises(UserError, match="--preset NAME"):
        choose()


def test_cycles_of_a_named_program(
    program: Program, named: Path, toy_sam_vit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sim.cycles.command, "read_folder", lambda _: SimpleNamespace(manifest=MANIFEST))
    monkeypatch.setattr(sim.cycles.command, "GoldenModel", SimpleNamespace(from_contents=lambda _: toy_sam_vit))
    parser = argparse.ArgumentParser()
    sim.cycles.command.add_parser(parser.add_subparsers())
    path = tmp_path / "cycles.json"
    given = parser.parse_args(["cycles", "model", "--program", str(named), "--json", str(path)])
    assert sim.cycles.command.run(given) == 0
    wanted = sum(layer.cycles for layer in program_cycles(program, memory_rate("onchip", program.preset)))
    found = json.loads(path.read_text())
    assert found["total_cycles"] == wanted
    least = bytes_again(toy_sam_vit.parameters, toy_sam_vit.architecture, program.preset)
    assert found["bytes_again"] == sum(layer["bytes_again"] for layer in found["layers"]) == sum(least.values())


@pytest.mark.parametrize(
    ("command", "rest"),
    [
        (sim.bench.layers, ["--image", "a.png", "--json", "a.json"]),
        (sim.segment, ["--image", "a.png", "--box", "1,2,3,4", "--out", "m.png"]),
    ],
)
def test_other_commands_take_it_in_place_of_a_preset(command: Any, rest: list[str]) -> None:
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    name = command.__name__.rpartition(".")[2]
    given = parser.parse_args([name, "model", "--program", "program", *rest])
    assert (given.program, given.preset) == (Path("program"), None)
