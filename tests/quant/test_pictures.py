"""Pictures and prompts: built in, or from a folder with masks."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from quant import calibration_pictures
from quant.calibration_pictures import builtin_calibration, varied_crop
from quant.pictures import (
    MIN_INSTANCE_PIXELS,
    builtin_evaluation,
    pictures_of_folder,
    random_boxes,
    tight_box,
)
from sim.contract.errors import UserError
from sim.picture import check_box


def save_pair(folder: Path, name: str, labels: np.ndarray | None) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    Image.fromarray(noise).save(folder / f"{name}.jpg")
    if labels is not None:
        Image.fromarray(labels).save(folder / f"{name}.png")


def two_instances() -> np.ndarray:
    labels = np.zeros((60, 80), np.uint8)
    labels[10:40, 5:25] = 3
    labels[20:50, 40:70] = 9
    labels[0:5, 0:5] = 200
    return labels


def test_tight_box_holds_every_pixel_and_no_more() -> None:
    mask = np.zeros((10, 12), bool)
    mask[3, 4] = mask[7, 9] = True
    assert tight_box(mask) == (4, 3, 10, 8)


def test_random_boxes_lie_inside_and_follow_the_seed() -> None:
    boxes = random_boxes(90, 40, 200, np.random.default_rng(1))
    for box in boxes:
        check_box(box, 90, 40)
    assert boxes == random_boxes(90, 40, 200, np.random.default_rng(1))
    assert boxes != random_boxes(90, 40, 200, np.random.default_rng(2))


def test_evaluation_prompts_are_inside_their_pictures_and_tight_around_masks() -> None:
    pictures = builtin_evaluation()
    assert sum(len(picture.boxes) for picture in pictures) >= 30
    for picture in pictures:
        height, width = picture.pixels.shape[:2]
        for box in picture.boxes:
            check_box(box, width, height)
        for box, mask in zip(picture.boxes, picture.truth, strict=False):
            assert mask.shape == (height, width) and mask.sum() >= MIN_INSTANCE_PIXELS
            assert tight_box(mask) == box


def test_calibration_and_evaluation_share_no_picture() -> None:
    calibration = {file for _, file in calibration_pictures._SOURCES}
    assert not calibration & {picture.name for picture in builtin_evaluation()}


def test_calibration_pictures_follow_the_seed() -> None:
    one, same, other = builtin_calibration(0, 4), builtin_calibration(0, 4), builtin_calibration(1, 4)
    for a, b in zip(one, same, strict=True):
        assert np.array_equal(a.pixels, b.pixels) and a.boxes == b.boxes
    assert any(not np.array_equal(a.pixels, b.pixels) for a, b in zip(one, other, strict=True))
    assert one[3].pixels.shape == (256, 256, 3)


def test_varied_crops_vary() -> None:
    generator = np.random.default_rng(5)
    picture = generator.integers(0, 255, (50, 70, 3), np.uint8)
    crops = [varied_crop(picture, 32, generator) for _ in range(4)]
    assert all(crop.shape == (32, 32, 3) and crop.dtype == np.uint8 for crop in crops)
    assert not np.array_equal(crops[0], crops[1])


def test_a_folder_gives_tight_boxes_of_its_large_instances(tmp_path: Path) -> None:
    save_pair(tmp_path, "street", two_instances())
    (picture,) = pictures_of_folder(tmp_path)
    assert picture.boxes == ((5, 10, 25, 40), (40, 20, 70, 50))
    assert [int(mask.sum()) for mask in picture.truth] == [600, 900]


def test_a_palette_mask_counts_by_index(tmp_path: Path) -> None:
    save_pair(tmp_path, "street", None)
    indexed = Image.fromarray(two_instances(), mode=None).convert("P")
    indexed.putpalette([value for index in range(256) for value in (index, 0, 0)])
    indexed.save(tmp_path / "street.png")
    assert len(pictures_of_folder(tmp_path)[0].boxes) == 2


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, r"street\.png is missing"),
        (np.zeros((60, 80), np.uint8), "no instance has 400 pixels"),
        (np.zeros((30, 80), np.uint8), "of the same size"),
        (np.zeros((60, 80, 3), np.uint8), "indexed or grey"),
    ],
)
def test_a_folder_with_a_faulty_mask_is_refused(tmp_path: Path, labels: np.ndarray | None, message: str) -> None:
    save_pair(tmp_path, "street", labels)
    with pytest.raises(UserError, match=message):
        pictures_of_folder(tmp_path)


def test_a_folder_that_is_missing_or_empty_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a folder"):
        pictures_of_folder(tmp_path / "none")
    with pytest.raises(UserError, match=r"holds no \.jpg picture"):
        pictures_of_folder(tmp_path)


def test_text_named_jpg_is_refused(tmp_path: Path) -> None:
    (tmp_path / "fake.jpg").write_text("not a picture")
    with pytest.raises(UserError, match=r"fake\.jpg cannot be read as a picture"):
        pictures_of_folder(tmp_path)


def test_text_named_png_is_refused(tmp_path: Path) -> None:
    save_pair(tmp_path, "street", None)
    (tmp_path / "street.png").write_text("not a mask")
    with pytest.raises(UserError, match=r"street\.png cannot be read as a mask"):
        pictures_of_folder(tmp_path)
