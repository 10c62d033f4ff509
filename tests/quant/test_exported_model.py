"""The exported default model: its size, its masks by the golden model, its agreement with float twins."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quant.evaluate import evaluate
from quant.pictures import builtin_evaluation
from quant.quantize import QUANTIZED_LAYERS
from sim.contract.folder import read_folder


@pytest.fixture(scope="session")
def figures(exported_model: Path) -> dict[str, Any]:
    """Figures on the retina picture and one picture with eight masks."""
    pictures = [picture for picture in builtin_evaluation() if "arc2017" in picture.name]
    seen: list[str] = []
    result = evaluate(exported_model, pictures, seen.append)
    assert len(seen) == 2
    return result


def test_size(exported_model: Path) -> None:
    assert sum(path.stat().st_size for path in exported_model.iterdir()) <= 5_500_000
    assert sorted(path.name for path in exported_model.iterdir()) == ["manifest.json", "model.safetensors"]


def test_every_layer_is_there_and_none_can_overflow(exported_model: Path) -> None:
    layers = read_folder(exported_model).layers
    assert len(layers) == QUANTIZED_LAYERS
    for layer in layers.values():
        assert int(layer.worst_accumulator().max()) < 2**35
        assert layer.weight.min() >= -8 and layer.weight.max() <= 7


def test_codebooks_fit_the_array_at_once(exported_model: Path) -> None:
    codebooks = {
        levels.tobytes() for layer in read_folder(exported_model).layers.values() for levels in layer.codebooks
    }
    assert len(codebooks) <= 18, "sixteen to choose from, and the two of byte planes"


def test_the_optic_disc_is_found(figures: dict[str, Any]) -> None:
    assert figures["retina"]["iou_to_float"] >= 0.90
    assert figures["retina"]["pixels"]["float"] == pytest.approx(29_982, abs=30)


def test_prompts_have_figures_to_float_and_to_truth(figures: dict[str, Any]) -> None:
    assert figures["n_prompts"] == 8 == len(figures["prompts"])
    assert figures["masks_from"] == "golden integer model"
    assert 0.6 < figures["mean_iou_to_float"] <= 1
    assert figures["min_iou_to_float"] == min(prompt["iou_to_float"] for prompt in figures["prompts"])
    assert figures["mean_iou_to_truth"]["int4"] == pytest.approx(
        np.mean([prompt["int4_iou_to_truth"] for prompt in figures["prompts"]])
    )


def test_each_layer_differs_from_its_float_twin_by_rounding_alone(figures: dict[str, Any]) -> None:
    assert len(figures["per_layer"]) == QUANTIZED_LAYERS
    for layer in figures["per_layer"]:
        assert layer["max_abs_error_lsb"] <= min(layer["bound_lsb"], 0.51), layer["name"]
        assert "rounded to 16 bits" in layer["explanation"]
