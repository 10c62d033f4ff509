from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sim.contract.errors import UserError
from sim.picture import (
    Preprocessed,
    check_box,
    intersection_over_union,
    load_picture,
    mask_from_logits,
    overlay,
    preprocess,
    resize_bilinear,
    save_picture,
)


def test_preprocessing_scales_stretches_and_pads() -> None:
    picture = np.random.default_rng(0).integers(30, 200, (100, 400, 3)).astype(np.uint8)
    prepared = preprocess(picture)
    assert prepared.pixels.shape == (1, 3, 256, 256)
    assert prepared.scaled_size == (256, 64)
    inside = prepared.pixels[0, :, :64, :]
    assert (inside.min(), inside.max()) == (0, 1)
    assert (prepared.pixels[0, :, 64:, :] == 0).all()
    np.testing.assert_allclose(prepared.scale_box((40, 20, 400, 100)), [25.6, 12.8, 256, 64])


def test_a_picture_of_one_colour_gives_no_nan() -> None:
    assert np.isfinite(preprocess(np.full((9, 9, 3), 7, np.uint8)).pixels).all()


def test_bilinear_of_a_ramp_is_the_ramp_of_pixel_centres() -> None:
    ramp = np.tile(np.arange(8, dtype=np.float32), (8, 1))
    larger = resize_bilinear(ramp, 16, 16)
    np.testing.assert_allclose(larger[3], np.clip((np.arange(16) + 0.5) / 2 - 0.5, 0, 7), atol=1e-6)
    np.testing.assert_allclose(resize_bilinear(ramp, 8, 8), ramp)


def test_mask_comes_back_at_picture_size_without_the_padding() -> None:
    prepared = Preprocessed(np.zeros((1, 3, 256, 256), np.float32), (256, 128), (512, 256))
    logits = np.full((64, 64), -1, np.float32)
    logits[:16, :32] = 1
    mask = mask_from_logits(logits, prepared)
    assert mask.shape == (256, 512)
    assert mask[:120, :248].all() and not mask[136:].any() and not mask[:, 264:].any()


@pytest.mark.parametrize("box", [(0, 0, 0, 5), (5, 5, 4, 9), (-1, 0, 5, 5), (0, 0, 11, 5), (0, 0, float("nan"), 5)])
def test_a_box_that_is_none_is_refused(box: tuple[float, float, float, float]) -> None:
    with pytest.raises(UserError, match="box"):
        check_box(box, 10, 10)


def test_a_box_of_the_whole_picture_is_fine() -> None:
    assert check_box((0, 0, 10, 10), 10, 10) == (0, 0, 10, 10)


def test_what_is_no_picture_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not a picture")
    Image.new("RGB", (64, 64)).save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:60])
    for name in ("text.png", "half.png", "absent.png"):
        with pytest.raises(UserError, match=name):
            load_picture(tmp_path / name)


def test_grey_and_palette_pictures_become_rgb(tmp_path: Path) -> None:
    for mode in ("L", "P", "RGBA", "1"):
        Image.new(mode, (5, 4)).save(tmp_path / f"{mode}.png")
        assert load_picture(tmp_path / f"{mode}.png").shape == (4, 5, 3)


def test_intersection_over_union() -> None:
    a, b = np.zeros((2, 4, 4), bool)
    assert intersection_over_union(a, b) == 1
    a[0], b[:2] = True, True
    assert intersection_over_union(a, b) == 0.5


def test_saving_leaves_nothing_half_written(tmp_path: Path) -> None:
    image = overlay(np.zeros((20, 20, 3), np.uint8), np.eye(20, dtype=bool), (2, 2, 18, 18))
    save_picture(image, tmp_path / "deep" / "mask.png")
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["mask.png"]
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        save_picture(image, tmp_path / "file" / "mask.png")
