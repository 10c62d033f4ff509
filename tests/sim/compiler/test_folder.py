"""Program folders: read as written, and refused when anything is not as it should be."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from sim.compiler.compile import Program, compile_encoder
from sim.compiler.disassemble import listing
from sim.compiler.folder import IMAGE_FILE, PROGRAM_FILE, ModelIdentity, read_program, write_program
from sim.contract.errors import UserError
from sim.machine.presets import PRESETS, preset_of

IDENTITY = ModelIdentity("toy", 4, "0" * 64)


@pytest.fixture(scope="module")
def program(toy_sam_vit: Any) -> Program:
    return compile_encoder(toy_sam_vit.parameters, toy_sam_vit.architecture, PRESETS["tiny"])


@pytest.fixture
def folder(program: Program, tmp_path: Path) -> Path:
    write_program(tmp_path / "program", program, IDENTITY)
    return tmp_path / "program"


def test_read_as_written(program: Program, folder: Path) -> None:
    assert read_program(folder) == (program, IDENTITY)
    assert sorted(path.name for path in folder.iterdir()) == [IMAGE_FILE, PROGRAM_FILE]


def test_memory_of_another_size_is_kept(toy_sam_vit: Any, tmp_path: Path) -> None:
    preset = preset_of("tiny", 32)
    program = compile_encoder(toy_sam_vit.parameters, toy_sam_vit.architecture, preset)
    write_program(tmp_path, program, IDENTITY)
    assert read_program(tmp_path)[0].preset == preset != PRESETS["tiny"]


@pytest.mark.parametrize(
    ("entry", "value", "named"),
    [
        ("schema_version", 2, "format"),
        ("preset", {"name": "tiny"}, "another"),
        ("preset", asdict(PRESETS["tiny"]) | {"memory_bytes": 12 << 20}, "another memory_bytes"),
        ("preset", {"name": "huge"}, "no preset"),
        ("commands", 1, "STOP"),
        ("commands", -1, "commands"),
        ("writable", 1 << 40, "writable"),
        ("picture", {"address": 0}, "lacks"),
        ("layers", [{"commands": [32, 64]}], "follow"),
        ("model", None, "lacks"),
        ("image", {"bytes": 1, "sha256": ""}, "damaged"),
    ],
)
def test_a_wrong_entry_is_refused_in_one_line(folder: Path, entry: str, value: Any, named: str) -> None:
    document = json.loads((folder / PROGRAM_FILE).read_text())
    (folder / PROGRAM_FILE).write_text(json.dumps(document | {entry: value}))
    with pytest.raises(UserError, match=named) as caught:
        read_program(folder)
    assert "\n" not in str(caught.value)


def test_a_flipped_bit_is_refused(folder: Path) -> None:
    image = bytearray((folder / IMAGE_FILE).read_bytes())
    image[len(image) // 2] ^= 4
    (folder / IMAGE_FILE).write_bytes(image)
    with pytest.raises(UserError, match="damaged"):
        read_program(folder)


def test_what_is_missing_is_named(folder: Path) -> None:
    (folder / IMAGE_FILE).unlink()
    with pytest.raises(UserError, match=IMAGE_FILE):
        read_program(folder)


def test_listing_has_every_command_and_step(program: Program) -> None:
    lines = list(listing(program))
    assert len(lines) == len(program.commands) + len(program.layers)
    assert lines[0] == f"; {program.layers[0].names[0]}"
    assert lines[-1].endswith("STOP")
    assert any("REPEAT from" in line for line in lines)
    assert any("SEND ARRAY_COMMAND phase=1" in line for line in lines)
