"""`python -m quant`: what it refuses, in one line, before minutes are spent."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from quant.__main__ import COMMANDS, build_parser, is_out_of_memory, main, recipe_of
from quant.models import checkpoint
from quant.recipe import DEFAULT, PRECISE_WEIGHTS


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one error line of a command that must exit with 1."""
    assert main(arguments) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


def raising(error: BaseException) -> Callable[..., None]:
    """A function that does nothing else."""

    def command(*_arguments: object) -> None:
        raise error

    return command


@pytest.mark.parametrize("bits", ["2", "3", "7", "16"])
def test_other_bits_are_refused(bits: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = refused(["quantize", "--bits", bits, "--out", str(tmp_path / "model")], capsys)
    assert f"--bits {bits} is not supported" in error and "give 4, 5, 6 or 8" in error
    assert not list(tmp_path.iterdir())


def test_another_model_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = refused(["quantize", "--model", "sam_vit_q", "--out", str(tmp_path / "model")], capsys)
    assert "'sam_vit_q'" in error and "lite_medsam" in error


@pytest.mark.parametrize("arguments", [[], ["quantize"], ["evaluate"], ["quantize", "--bits", "four", "--out", "x"]])
def test_bad_use_exits_with_two(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2


@pytest.mark.parametrize("command", ["quantize", "evaluate"])
def test_help_teaches_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([command, "--help"])
    assert exit_.value.code == 0
    assert f"python -m quant {command}" in capsys.readouterr().out


def test_a_damaged_checkpoint_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = tmp_path / "damaged.pth"
    damaged.write_bytes(checkpoint.locate().read_bytes()[:-100])
    arguments = ["quantize", "--out", str(tmp_path / "model"), "--checkpoint", str(damaged)]
    assert "has sha256" in refused(arguments, capsys)
    assert not (tmp_path / "model").exists()


def test_a_missing_checkpoint_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["quantize", "--out", str(tmp_path / "model"), "--checkpoint", str(tmp_path / "none.pth")]
    assert "cannot read the checkpoint" in refused(arguments, capsys)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_place_without_permission_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tmp_path.chmod(0o500)
    assert "is not writable" in refused(["quantize", "--out", str(tmp_path / "model")], capsys)


def test_a_place_below_a_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot write" in refused(["quantize", "--out", str(tmp_path / "file" / "model")], capsys)


@pytest.mark.parametrize("command", ["quantize", "evaluate"])
def test_an_empty_folder_of_pictures_is_refused(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    target = ["--out", str(tmp_path / "model")] if command == "quantize" else [str(tmp_path)]
    assert "holds no .jpg picture" in refused([command, *target, "--images", str(pictures)], capsys)


def test_evaluating_what_is_no_model_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "manifest.json" in refused(["evaluate", str(tmp_path)], capsys)


def test_evaluating_a_damaged_folder_is_refused(
    exported_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "model"
    shutil.copytree(exported_model, copy)
    tensors = copy / "model.safetensors"
    content = bytearray(tensors.read_bytes())
    content[-1] ^= 1
    tensors.write_bytes(content)
    assert "does not match the hash" in refused(["evaluate", str(copy)], capsys)


def test_a_mask_that_is_missing_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(tmp_path / "one.jpg")
    arguments = ["quantize", "--out", str(tmp_path / "model"), "--images", str(tmp_path)]
    assert "one.png is missing" in refused(arguments, capsys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["quantize", "--recon-iters", "-1", "--out", "m"], "--recon-iters -1 is negative"),
        (["quantize", "--seed", "-1", "--out", "m"], "--seed -1 is out of range; give 0 to"),
        (["quantize", "--agq", "--no-lnq", "--out", "m"], "exclude each other"),
        (["quantize", "--model", "vit_b", "--out", "m"], "download sam_vit_b_01ec64.pth from https"),
        (["quantize", "--model", "vit_b", "--checkpoint", "none.pth", "--out", "m"], "none.pth does not exist; give"),
        (["quantize", "--model", "lite_medsam", "--synthetic", "--out", "m"], "leave --synthetic out"),
        (["quantize", "--out", "photos"], "photos exists and is not a model folder"),
        (["quantize", "--json", "photos", "--out", "m"], "cannot write photos: it is a folder"),
        (["evaluate", "m", "--boxes", "b.json"], "--boxes needs --coco"),
        (["evaluate", "m", "--limit", "3"], "--limit needs --coco"),
        (["evaluate", "m", "--coco", "a", "--fake-quant"], "--fake-quant has no meaning beside --coco"),
        (["evaluate", "m", "--coco", "a", "--image-root", "i"], "--coco needs --image-root DIR and --boxes JSON"),
        (["evaluate", "m", "--coco", "a", "--image-root", "i", "--boxes", "b", "--limit", "0"], "--limit 0 leaves no"),
        (["evaluate", "m", "--json", "photos"], "it is a folder"),
        (["inspect", "m", "--html", "photos"], "it is a folder"),
        (["inspect", "m"], "m is not a folder"),
        (["ablate", "--seeds", "0,one", "--out", "m"], "--seeds '0,one' is not a list of integers"),
        (["ablate", "--seeds", "0,-3", "--out", "m"], "--seeds -3 is out of range"),
        (["ablate", "--recon-iters", "-2", "--out", "m"], "--recon-iters -2 is negative"),
        (["ablate", "--bits", "4,3", "--out", "m"], "3"),
        (["ablate", "--calibration", "0", "--out", "m"], "--calibration 0 is not possible"),
        (["quantize", "--precise", "--strict", "--out", "m"], "exclude each other"),
    ],
)
def test_bad_values_are_one_line_and_leave_nothing(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("quant.quantize.builtin_calibration", raising(AssertionError("work has begun")))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.jpg").write_text("mine")
    assert message in refused(arguments, capsys)
    assert [path.name for path in tmp_path.rglob("*")] == ["photos", "mine.jpg"]


SWITCHES: dict[str, dict[str, object]] = {
    "": {},
    "--acnr": {"acnr": True},
    "--no-acnr": {"acnr": False},
    "--no-hluq": {"hluq": False},
    "--no-lnq": {"scores": "uniform"},
    "--agq": {"scores": "agq"},
    "--no-big": {"big": False},
    "--cag off": {"cag": "off"},
    "--cag 4": {"cag": "4"},
    "--weight-groups channel": {"weight_groups": "channel"},
    "--no-compensation": {"compensate": False},
    "--recon-iters 7": {"recon_iters": 7},
    "--bits 5": {"bits": 5},
    "--strict": {"byte_inputs": (), "byte_scores": ()},
    "--precise": {"byte_weights": PRECISE_WEIGHTS},
}


@pytest.mark.parametrize("switch", SWITCHES)
def test_every_switch_moves_its_own_part_alone(switch: str) -> None:
    """In one public version the switch of one part decides over another."""
    parsed = build_parser().parse_args(["quantize", "--out", "m", *switch.split()])
    assert recipe_of(parsed) == replace(DEFAULT, **SWITCHES[switch])  # type: ignore[arg-type]


MEMORY = {
    "quantize": "--recon-iters 0",
    "evaluate": "--fake-quant",
    "inspect": "close other programs",
    "ablate": "--parts",
}


@pytest.mark.parametrize("command", MEMORY)
@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you"),
    ],
    ids=["python", "gpu", "torch"],
)
def test_out_of_memory_names_the_setting_to_lower(
    command: str, error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(COMMANDS, command, raising(error))
    arguments = [command, "--out", "m"] if command in ("quantize", "ablate") else [command, "m"]
    line = refused(arguments, capsys)
    assert line.startswith("error: out of memory; ") and MEMORY[command] in line


def test_memory_that_torch_and_numpy_do_not_get_is_recognised() -> None:
    """With their own words, not with those that the test above believes they use."""
    with pytest.raises(RuntimeError) as of_torch:
        torch.empty(1 << 60, dtype=torch.uint8)
    with pytest.raises(MemoryError) as of_numpy:
        np.empty(1 << 60, np.uint8)
    assert is_out_of_memory(of_torch.value) and is_out_of_memory(of_numpy.value)


def test_another_fault_of_the_program_is_not_called_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COMMANDS, "inspect", raising(RuntimeError("a fault of ours")))
    with pytest.raises(RuntimeError, match="a fault of ours"):
        main(["inspect", "m"])


@pytest.mark.parametrize(
    ("command", "advice"), [("quantize", "with --resume goes on"), ("ablate", "same command goes")]
)
def test_an_interruption_is_one_line_that_says_how_to_go_on(
    command: str, advice: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(COMMANDS, command, raising(KeyboardInterrupt()))
    line = refused([command, "--out", "m"], capsys)
    assert line.startswith("error: interrupted; ") and advice in line
