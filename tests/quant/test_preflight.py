"""What is refused or announced before work begins."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from quant.pictures import CALIBRATION_BOXES, PromptedPicture
from quant.preflight import (
    LARGEST_SEED,
    check_files,
    check_model_place,
    check_place,
    check_seed,
    few_boxes,
    own_pictures,
)
from sim.contract.errors import UserError
from sim.contract.folder import MANIFEST_FILE


def write_picture(folder: Path, name: str, instances: int, shade: int) -> None:
    """A picture of 400 x 400 pixels with that many instances of 30 x 30."""
    labels = np.zeros((400, 400), np.uint8)
    for index in range(instances):
        row, column = divmod(index, 12)
        labels[33 * row : 33 * row + 30, 33 * column : 33 * column + 30] = index + 1
    Image.fromarray(np.full((400, 400, 3), shade, np.uint8)).save(folder / f"{name}.jpg")
    Image.fromarray(labels).save(folder / f"{name}.png")


def test_a_picture_with_many_boxes_keeps_few_of_them_with_their_masks() -> None:
    boxes = tuple((float(index), 0.0, index + 1.0, 1.0) for index in range(100))
    masks = tuple(np.full((1, 1), index) for index in range(100))
    few = few_boxes(PromptedPicture("many", np.zeros((9, 9, 3), np.uint8), boxes, masks))
    assert len(few.boxes) == CALIBRATION_BOXES == len(set(few.boxes)) == 8
    assert [int(mask[0, 0]) for mask in few.truth] == [box[0] for box in few.boxes]
    assert few.boxes[0] == boxes[0] and few.boxes[-1][0] > 80
    without_truth = few_boxes(PromptedPicture("many", few.pixels, boxes))
    assert without_truth.boxes == few.boxes and without_truth.truth == ()


@pytest.mark.parametrize("count", [1, CALIBRATION_BOXES])
def test_a_picture_with_few_boxes_is_used_as_it_is(count: int) -> None:
    picture = PromptedPicture("few", np.zeros((9, 9, 3), np.uint8), ((0.0, 0.0, 1.0, 1.0),) * count)
    assert few_boxes(picture) is picture


def test_what_is_calibrated_on_is_said_and_warned_of_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, instances in (("a", 100), ("b", 3)):
        write_picture(tmp_path, name, instances, shade=90)
    pictures, warnings = own_pictures(tmp_path)
    assert [len(picture.boxes) for picture in pictures] == [8, 3]
    said = capsys.readouterr().err.splitlines()
    assert said[0] == f"calibrates on 2 pictures of {tmp_path} with 11 of their 103 boxes"
    assert said[1:] == [f"warning: {warning}" for warning in warnings]
    assert len(warnings) == 2 and "2 calibration pictures" in warnings[0] and "look alike" in warnings[1]


def test_varied_pictures_are_not_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for index in range(4):
        write_picture(tmp_path, f"p{index}", 2, shade=20 + 50 * index)
    assert own_pictures(tmp_path)[1] == []
    assert "warning" not in capsys.readouterr().err


def test_a_model_replaces_a_model_or_an_empty_folder_and_nothing_else(tmp_path: Path) -> None:
    check_model_place(tmp_path / "new" / "model")
    (tmp_path / "empty").mkdir()
    check_model_place(tmp_path / "empty")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / MANIFEST_FILE).write_text("{}")
    check_model_place(tmp_path / "model")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.jpg").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for other in ("photos", "file"):
        with pytest.raises(UserError, match=rf"{other} exists and is not a model folder; name another --out"):
            check_model_place(tmp_path / other)
    assert (tmp_path / "photos" / "mine.jpg").read_text() == "mine"


def test_places_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*model: .*; choose a writable place"):
        check_place(tmp_path / "file" / "model")
    with pytest.raises(UserError, match=r"cannot write .*: it is a folder; name a file"):
        check_files(None, tmp_path)
    check_files(None, tmp_path / "figures" / "one.json")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="is not writable"):
        check_files(tmp_path / "figures.json")


@pytest.mark.parametrize("seed", [-1, LARGEST_SEED + 1])
def test_seeds_that_a_generator_does_not_take_are_refused(seed: int) -> None:
    check_seed(0, "--seed")
    check_seed(LARGEST_SEED, "--seed")
    np.random.default_rng(LARGEST_SEED)
    with pytest.raises(UserError, match=rf"--seed {seed} is out of range; give 0 to 4294967295"):
        check_seed(seed, "--seed")
