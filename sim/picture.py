"""Pictures and boxes: what goes into the encoder and what comes back on the picture."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, UnidentifiedImageError

from sim.contract.errors import UserError
from sim.record import write_whole

INPUT_SIDE: Final = 256
"""Side of the square the encoder of LiteMedSAM sees, in pixels."""

MAX_PIXELS: Final = 100_000_000
"""Larger pictures are refused before they are decoded."""

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels of the picture, x1 and y1 exclusive."""


@dataclass(frozen=True)
class Preprocessed:
    """`pixels`: float32 (1, 3, 256, 256) within [0, 1], zero-padded right and bottom. `scaled_size`: (width, height)
    of the picture inside it. `original_size`: (width, height) of the picture. All in pixels."""

    pixels: NDArray[np.float32]
    scaled_size: tuple[int, int]
    original_size: tuple[int, int]

    def scale_box(self, box: Box) -> NDArray[np.float32]:
        """The box float32 (4,) in pixels of the encoder's square."""
        ratio = INPUT_SIDE / max(self.original_size)
        return (np.asarray(box, np.float32) * np.float32(ratio)).astype(np.float32)


def load_picture(path: Path) -> NDArray[np.uint8]:
    """A picture file as uint8 RGB (height, width, 3). Raises UserError when it is missing or not a picture."""
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UserError(f"{path} has {image.width} x {image.height} pixels, over the limit of {MAX_PIXELS}")
            return np.asarray(image.convert("RGB"))
    except FileNotFoundError as error:
        raise UserError(f"picture {path} does not exist; check the path") from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} cannot be read as a picture ({error}); give a PNG or JPEG file") from error


def check_box(box: Box, width: int, height: int) -> Box:
    """The box itself, or a UserError when it has no area or does not lie inside the picture (pixels)."""
    x0, y0, x1, y1 = box
    text = ",".join(f"{value:g}" for value in box)
    if not all(np.isfinite(box)):
        raise UserError(f"box {text} holds a value that is not a number; give X0,Y0,X1,Y1 in pixels")
    if x1 <= x0 or y1 <= y0:
        raise UserError(f"box {text} has no area; give X0,Y0,X1,Y1 with X0 < X1 and Y0 < Y1")
    if x0 < 0 or y0 < 0 or x1 > width or y1 > height:
        raise UserError(f"box {text} leaves the picture of {width} x {height} pixels; give a box inside it")
    return box


def preprocess(picture: NDArray[np.uint8]) -> Preprocessed:
    """uint8 RGB (height, width, 3) to the encoder's input: longest side 256 (bicubic), min-max to [0, 1], zero pad."""
    height, width = picture.shape[:2]
    ratio = INPUT_SIDE / max(height, width)
    size = (max(1, int(width * ratio + 0.5)), max(1, int(height * ratio + 0.5)))
    scaled = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC), np.float32)
    low, high = float(scaled.min()), float(scaled.max())
    scaled = (scaled - np.float32(low)) / np.float32(max(high - low, 1e-8))
    pixels = np.zeros((1, 3, INPUT_SIDE, INPUT_SIDE), np.float32)
    pixels[0, :, : size[1], : size[0]] = scaled.transpose(2, 0, 1)
    return Preprocessed(pixels, size, (width, height))


def _bilinear_axis(length: int, target: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Neighbours and weight of each of `target` samples of an axis, pixel centres aligned (not corners)."""
    centre = np.maximum((np.arange(target, dtype=np.float64) + 0.5) * (length / target) - 0.5, 0)
    low = np.minimum(centre.astype(np.intp), length - 1)
    return low, np.minimum(low + 1, length - 1), (centre - low).astype(np.float32)


def resize_bilinear(plane: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """A float32 plane (h, w) to (height, width), bilinear without antialiasing, pixel centres aligned."""
    top, bottom, dy = _bilinear_axis(plane.shape[0], height)
    left, right, dx = _bilinear_axis(plane.shape[1], width)
    rows = plane[top] * (1 - dy)[:, None] + plane[bottom] * dy[:, None]
    return (rows[:, left] * (1 - dx) + rows[:, right] * dx).astype(np.float32)


def mask_from_logits(logits: NDArray[np.float32], prepared: Preprocessed) -> NDArray[np.bool_]:
    """Mask logits float32 (h, w) over the padded square to a bool mask (height, width) of the picture."""
    square = resize_bilinear(logits, INPUT_SIDE, INPUT_SIDE)
    scaled_width, scaled_height = prepared.scaled_size
    width, height = prepared.original_size
    return resize_bilinear(square[:scaled_height, :scaled_width], height, width) > 0


def intersection_over_union(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Intersection over union of two masks of one shape; 1 when both are empty."""
    union = int(np.logical_or(a, b).sum())
    return 1.0 if union == 0 else int(np.logical_and(a, b).sum()) / union


def overlay(
    picture: NDArray[np.uint8], mask: NDArray[np.bool_], box: Box, colour: tuple[int, int, int] = (40, 210, 90)
) -> Image.Image:
    """The picture with the mask tinted in and the box drawn around it."""
    tinted = picture.astype(np.float32)
    tinted[mask] = 0.5 * tinted[mask] + 0.5 * np.asarray(colour, np.float32)
    image = Image.fromarray(tinted.astype(np.uint8))
    line_pixels = max(2, max(image.size) // 300)
    ImageDraw.Draw(image).rectangle((box[0], box[1], box[2] - 1, box[3] - 1), outline=(64, 224, 255), width=line_pixels)
    return image


def save_picture(image: Image.Image, path: Path) -> None:
    """Write a PNG whole or not at all. Raises UserError when the place cannot be written."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    write_whole(path, buffer.getvalue())
