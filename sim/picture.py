"""Pictures and boxes: what goes into the encoder and what comes back on the picture."""

import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, UnidentifiedImageError

from sim.contract.errors import UserError
from sim.record import write_whole

INPUT_SIDE: Final = 256
"""Side of the square the encoder of LiteMedSAM sees, in pixels."""


@dataclass(frozen=True)
class InputFormat:
    """How a picture becomes the input of an image encoder.

    side: of the encoder's square in pixels; the longest side of the picture is scaled to it. resampling: filter of
    that. normalisation: 'min_max' stretches the values of a picture to [0, 1]; 'mean_std' subtracts `mean` and
    divides by `std`, per channel, in units of 0..255. Padding comes last and is zero.
    """

    side: int
    normalisation: Literal["min_max", "mean_std"]
    resampling: Literal["bicubic", "bilinear"]
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def normalise(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 (height, width, 3) of 0..255 to the range that the encoder was trained on."""
        if self.normalisation == "mean_std":
            mean, std = (np.asarray(one, np.float32) for one in (self.mean, self.std))
            return ((values - mean) / std).astype(np.float32)
        low, high = float(values.min()), float(values.max())
        return (values - np.float32(low)) / np.float32(max(high - low, 1e-8))


LITE_MEDSAM: Final = InputFormat(INPUT_SIDE, "min_max", "bicubic")
"""Input of LiteMedSAM."""

SAM: Final = InputFormat(1024, "mean_std", "bilinear", mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
"""Input of Segment Anything (`Sam.preprocess` and `ResizeLongestSide` of the package segment-anything)."""

VIT_TEST: Final = replace(SAM, side=256)
"""Input of the small test model on the code path of Segment Anything."""

MAX_PIXELS: Final = 100_000_000
"""Larger pictures are refused before they are decoded."""

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels of the picture, x1 and y1 exclusive."""


@dataclass(frozen=True)
class Preprocessed:
    """`pixels`: float32 (1, 3, side, side), normalised, zero-padded right and bottom. `scaled_size`: (width, height)
    of the picture inside it. `original_size`: (width, height) of the picture. All in pixels."""

    pixels: NDArray[np.float32]
    scaled_size: tuple[int, int]
    original_size: tuple[int, int]

    @property
    def side(self) -> int:
        """Side of the encoder's square in pixels."""
        return self.pixels.shape[-1]

    def scale_box(self, box: Box) -> NDArray[np.float32]:
        """The box float32 (4,) in pixels of the encoder's square."""
        ratio = self.side / max(self.original_size)
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


def preprocess(picture: NDArray[np.uint8], input_format: InputFormat = LITE_MEDSAM) -> Preprocessed:
    """uint8 RGB (height, width, 3) to an encoder's input: scaled, normalised, padded."""
    height, width = picture.shape[:2]
    ratio = input_format.side / max(height, width)
    size = (max(1, int(width * ratio + 0.5)), max(1, int(height * ratio + 0.5)))
    resampling = Image.Resampling[input_format.resampling.upper()]
    scaled = np.asarray(Image.fromarray(picture).resize(size, resampling), np.float32)
    pixels = np.zeros((1, 3, input_format.side, input_format.side), np.float32)
    pixels[0, :, : size[1], : size[0]] = input_format.normalise(scaled).transpose(2, 0, 1)
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
    square = resize_bilinear(logits, prepared.side, prepared.side)
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
