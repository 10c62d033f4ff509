"""`python -m quant`: what it refuses, in one line, before minutes are spent."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from quant.__main__ import main
from quant.models import checkpoint


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one error line of a command that must exit with 1."""
    assert main(arguments) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


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
