"""`python -m sim segment` from the outside."""

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import load_file, save_file

from sim.__main__ import main
from sim.golden import GoldenModel

BOX = "20,20,100,70"


@pytest.fixture
def image(picture: NDArray[np.uint8], tmp_path: Path) -> Path:
    path = tmp_path / "ellipse.png"
    Image.fromarray(picture).save(path)
    return path


def segment(model: Path, image: Path, folder: Path, box: str = BOX, *more: str) -> int:
    return main(["segment", str(model), "--image", str(image), "--box", box, "--out", str(folder / "mask.png"), *more])


def left_behind(folder: Path, *inputs: Path) -> list[str]:
    """Names of files and folders in `folder` that are not inputs."""
    return sorted(path.name for path in folder.iterdir() if path not in inputs)


def test_mask_overlay_and_figures(
    toy_folder: Path, image: Path, picture: NDArray[np.uint8], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "folder"
    more = ("--overlay", str(out / "overlay.png"), "--json", str(out / "figures.json"), "--backend", "golden")
    assert segment(toy_folder, image, out, BOX, *more) == 0
    expected = GoldenModel.from_folder(toy_folder).segment(picture, (20, 20, 100, 70))

    with Image.open(out / "mask.png") as opened:
        assert opened.mode == "L" and opened.format == "PNG"
        mask = np.asarray(opened)
    np.testing.assert_array_equal(mask, np.where(expected.mask, 255, 0))
    assert 0 < expected.mask.mean() < 1

    figures = json.loads((out / "figures.json").read_text())
    assert figures["pixels"] == int(expected.mask.sum())
    assert figures["predicted_iou"] == expected.predicted_iou
    assert figures["mask_sha256"] == hashlib.sha256(mask.tobytes()).hexdigest()
    assert figures["seconds"] == figures["encoder_seconds"] + figures["decoder_seconds"] > 0
    assert (figures["image_width"], figures["image_height"], figures["box"]) == (120, 90, [20, 20, 100, 70])
    assert (figures["model"], figures["bits"], figures["backend"]) == (
        "toy",
        {"weight": 8, "activation": 8},
        "golden",
    )

    with Image.open(out / "overlay.png") as opened:
        assert opened.size == (120, 90) and opened.mode == "RGB"
    assert left_behind(out) == ["figures.json", "mask.png", "overlay.png"]
    captured = capfd.readouterr()
    assert captured.out.count("\n") == 1 and f"{figures['pixels']} of 10800 pixels" in captured.out
    layers = len(GoldenModel.from_folder(toy_folder).encoder_layers())
    assert f"{layers}/{layers}" in captured.err and "image encoder" in captured.err


@pytest.fixture
def refused(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., None]:
    """Checks that a run ends with 1, one line on stderr that holds `message`, and no file."""

    def check(model: Path, image: Path, message: str, box: str = BOX) -> None:
        out = tmp_path / "out"
        out.mkdir()
        assert segment(model, image, out, box, "--json", str(out / "figures.json")) == 1
        captured = capfd.readouterr()
        assert captured.err.startswith("error: ") and captured.err.count("\n") == 1 and captured.out == ""
        assert message in captured.err
        assert left_behind(out) == []

    return check


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ("20,20,121,70", "leaves the picture of 120 x 90 pixels"),
        ("-5,20,100,70", "leaves the picture of 120 x 90 pixels"),
        ("200,200,210,210", "leaves the picture"),
        ("20,20,20,70", "has no area"),
        ("100,20,20,70", "has no area"),
        ("20,20,100", "is not four numbers"),
        ("20,20,100,70,80", "is not four numbers"),
        ("a,b,c,d", "is not four numbers"),
        ("", "is not four numbers"),
        ("20,nan,100,70", "not a number"),
        ("20,20,inf,70", "not a number"),
    ],
)
def test_bad_boxes(refused: Callable[..., None], toy_folder: Path, image: Path, box: str, message: str) -> None:
    refused(toy_folder, image, message, box)


def test_missing_picture(refused: Callable[..., None], toy_folder: Path, tmp_path: Path) -> None:
    refused(toy_folder, tmp_path / "absent.png", "absent.png does not exist")


@pytest.mark.parametrize("content", [b"", b"not a picture\n", b"\x89PNG\r\n\x1a\n truncated"])
def test_file_that_is_no_picture(
    refused: Callable[..., None], toy_folder: Path, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "notes.png").write_bytes(content)
    refused(toy_folder, tmp_path / "notes.png", "cannot be read as a picture")


def test_truncated_picture(refused: Callable[..., None], toy_folder: Path, image: Path) -> None:
    image.write_bytes(image.read_bytes()[: image.stat().st_size // 2])
    refused(toy_folder, image, "cannot be read as a picture")


@pytest.fixture
def damaged(toy_folder: Path, tmp_path: Path) -> Path:
    """A copy of the model to damage."""
    return Path(shutil.copytree(toy_folder, tmp_path / "model"))


def remove(name: str) -> Callable[[Path], object]:
    return lambda model: (model / name).unlink()


def truncate(name: str) -> Callable[[Path], object]:
    return lambda model: (model / name).write_bytes((model / name).read_bytes()[:-100])


def flip_a_bit(model: Path) -> None:
    path = model / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)


def edit_manifest(**changes: object) -> Callable[[Path], object]:
    def edit(model: Path) -> None:
        path = model / "manifest.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return edit


def set_tensor(name: str, value: float) -> Callable[[Path], object]:
    """Put `value` into a tensor and make the hash right, so that only the value is at fault."""

    def edit(model: Path) -> None:
        path = model / "model.safetensors"
        tensors = load_file(path)
        tensors[name].flat[0] = value
        save_file(tensors, path)
        edit_manifest(tensors_sha256=hashlib.sha256(path.read_bytes()).hexdigest())(model)

    return edit


NECK = "image_encoder.neck.0"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "is not a folder"),
        (remove("manifest.json"), "manifest.json is missing"),
        (remove("model.safetensors"), "model.safetensors is missing"),
        (truncate("manifest.json"), "manifest.json is not valid JSON"),
        (truncate("model.safetensors"), "model.safetensors is damaged"),
        (flip_a_bit, "does not match the hash"),
        (edit_manifest(schema_version=2), "has schema version 2, this program reads 3"),
        (edit_manifest(format="other"), "is not a nibblesam-model manifest"),
        (set_tensor(f"{NECK}.encoder.permutation", 7), f"{NECK}.encoder: permutation does not name each of the 48"),
        (set_tensor("float.mask_decoder.iou_token.weight", float("inf")), "holds a value that is not finite"),
    ],
)
def test_damaged_models(
    refused: Callable[..., None], damaged: Path, image: Path, damage: Callable[[Path], object], message: str
) -> None:
    damage(damaged)
    refused(damaged, image, message)


def test_outputs_do_not_overwrite_inputs_or_each_other(
    toy_folder: Path, image: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = image.read_bytes()
    assert main(["segment", str(toy_folder), "--image", str(image), "--box", BOX, "--out", str(image)]) == 1
    assert "would overwrite the picture" in capfd.readouterr().err
    same = str(tmp_path / "mask.png")
    assert segment(toy_folder, image, tmp_path, BOX, "--overlay", same) == 1
    assert "would overwrite another output" in capfd.readouterr().err
    assert segment(toy_folder, image, tmp_path, BOX, "--json", str(tmp_path)) == 1
    assert "is a folder" in capfd.readouterr().err
    assert segment(toy_folder, image, tmp_path, BOX, "--overlay", str(tmp_path / "overlay.jpg")) == 1
    assert "ends in .png" in capfd.readouterr().err
    assert image.read_bytes() == before
    assert left_behind(tmp_path, image) == []


def test_place_that_cannot_be_written(
    toy_folder: Path, image: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    assert segment(toy_folder, image, tmp_path / "file") == 1
    line = capfd.readouterr().err.splitlines()[-1]
    assert line.startswith("error: cannot write") and "Traceback" not in line


@pytest.mark.parametrize(
    "case",
    [
        (["--weight-source-mb-s", "9"], "--weight-source-mb-s is for --backend rtl; add it"),
        (["--trace", "trace.json"], "--trace is for --backend rtl, which has units to look at"),
        (["--wave-cycles", "0:9", "--backend", "executor", "--preset", "tiny"], "--wave-cycles is for --backend rtl"),
        (["--backend", "rtl", "--preset", "tiny", "--wave-cycles", "0:9"], "--wave-cycles needs --wave FILE"),
        (
            ["--backend", "rtl", "--preset", "tiny", "--trace", "{out}/mask.png"],
            "would overwrite another output of this run",
        ),
    ],
)
def test_timelines_are_of_simulated_hardware(
    case: tuple[list[str], str], toy_folder: Path, image: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options, message = case
    assert segment(toy_folder, image, tmp_path, BOX, *(option.format(out=tmp_path) for option in options)) == 1
    error = capfd.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "mask.png").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["unknown"],
        ["segment"],
        ["segment", "model", "--image", "a.png", "--box", BOX],
        ["segment", "model", "--image", "a.png", "--box", BOX, "--out", "m.png", "--backend", "fpga"],
    ],
)
def test_bad_use_exits_with_two(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: python -m sim" in capfd.readouterr().err


def test_help_teaches_with_an_example(capfd: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--help"], ["segment", "--help"]):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 0
        assert "python -m sim segment" in capfd.readouterr().out


BLOCKER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "amaranth", "cocotb", "scipy", "quant", "hdl"}:
            raise AssertionError(f"sim imports {name}")

sys.meta_path.insert(0, Blocker())
sys.argv[0] = "sim"
from sim.__main__ import main
import sim.golden.tap
sys.exit(main(sys.argv[1:]))
"""


def test_segment_needs_neither_torch_nor_amaranth_nor_cocotb(toy_folder: Path, image: Path, tmp_path: Path) -> None:
    mask = tmp_path / "mask.png"
    command = ["segment", str(toy_folder), "--image", str(image), "--box", BOX, "--out", str(mask)]
    result = subprocess.run(
        [sys.executable, "-c", BLOCKER, *command], capture_output=True, text=True, check=False, timeout=120
    )
    assert result.returncode == 0, result.stderr
    assert mask.exists()
