"""Models and folders that several tests of the quantizer share, each made once."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quant.models.lite_medsam import LiteMedSam, load_lite_medsam
from quant.models.registry import MODELS
from quant.models.sam import SHAPES
from quant.pictures import PromptedPicture, random_boxes
from quant.quantize import quantize_to_folder
from quant.recipe import DEFAULT, Recipe

TOY_SHAPE = replace(
    SHAPES["vit_test"],
    channels=32,
    depth=2,
    heads=2,
    global_blocks=(1,),
    window=3,
    input_format=replace(SHAPES["vit_test"].input_format, side=64),
)
"""A map of 4 x 4 patches, in windows of 3 (padded to 6) and as a whole; the mask decoder keeps its size."""

QUICK = replace(DEFAULT, compensate=False, scores="uniform", max_tokens=256)
"""What takes seconds: rounding to nearest, uniform probabilities; everything else is as by default."""


def toy_pictures(count: int = 2, side: int = 64) -> list[PromptedPicture]:
    """Smooth seeded pictures with two boxes each."""
    generator = np.random.default_rng(8)
    pictures = []
    for index in range(count):
        coarse = generator.integers(0, 256, (4, 4, 3), np.uint8)
        pixels = np.ascontiguousarray(np.kron(coarse, np.ones((side // 4, side // 4, 1), np.uint8)))
        pictures.append(PromptedPicture(f"toy {index}", pixels, random_boxes(side, side, 2, generator)))
    return pictures


@dataclass(frozen=True)
class Toys:
    """quick: a recipe of seconds. pictures: calibration pictures. quantize: `quantize_to_folder` of the toy model."""

    quick: Recipe
    pictures: Callable[..., list[PromptedPicture]]

    def quantize(self, out: Path, recipe: Recipe, **options: Any) -> dict[str, Any]:
        """Figures; options are those of `quantize_to_folder`."""
        settings = {"pictures": self.pictures(), "seed": 0, "progress": lambda _: None, "model_name": "vit_test"}
        return quantize_to_folder(out, recipe=recipe, **{**settings, **options})


def name_toy(patch: pytest.MonkeyPatch) -> Toys:
    """Give the toy model the name vit_test."""
    patch.setitem(SHAPES, "vit_test", TOY_SHAPE)
    patch.setitem(MODELS, "vit_test", replace(MODELS["vit_test"], input_format=TOY_SHAPE.input_format))
    return Toys(QUICK, toy_pictures)


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> Toys:
    """The name vit_test stands for a model that is quantized in seconds."""
    return name_toy(monkeypatch)


@pytest.fixture(scope="module")
def toys_of_module() -> Iterator[Toys]:
    """`toys` for all tests of a module, and for what they share."""
    with pytest.MonkeyPatch.context() as patch:
        yield name_toy(patch)


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy model, quantized with QUICK, seed 0. Whoever loads its float model needs `toys` too."""
    folder = tmp_path_factory.mktemp("toy") / "model"
    with pytest.MonkeyPatch.context() as patch:
        name_toy(patch).quantize(folder, QUICK)
    return folder


@pytest.fixture(scope="session")
def lite_medsam() -> LiteMedSam:
    """The pretrained float model. Tests must not change it."""
    return load_lite_medsam()
