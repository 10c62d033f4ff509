"""The exported default model: its size, its masks by the golden model, its agreement with float arithmetic."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quant.evaluate import evaluate
from quant.pictures import builtin_evaluation
from sim.contract.attention import Attention
from sim.contract.folder import read_folder
from sim.contract.layer import QuantizedLayer

DENSE_LAYERS = 90
ATTENTIONS = 17


@pytest.fixture(scope="session")
def figures(exported_model: Path) -> dict[str, Any]:
    """Figures on the retina picture and one picture with eight masks."""
    pictures = [picture for picture in builtin_evaluation() if "arc2017" in picture.name]
    seen: list[str] = []
    result = evaluate(exported_model, pictures, seen.append)
    assert len(seen) == 2
    return result


def test_size(exported_model: Path) -> None:
    names = ("manifest.json", "model.safetensors", "quantization.json")
    assert sorted(path.name for path in exported_model.iterdir()) == sorted(names)
    assert sum((exported_model / name).stat().st_size for name in names[:2]) <= 6_000_000


def test_every_operation_is_there_and_weights_have_four_bits(exported_model: Path) -> None:
    operations = read_folder(exported_model).operations
    dense = {name: one for name, one in operations.items() if isinstance(one, QuantizedLayer)}
    assert len(dense) == DENSE_LAYERS
    assert sum(isinstance(one, Attention) for one in operations.values()) == ATTENTIONS
    for name, layer in dense.items():
        assert int(layer.array_form.worst_accumulator().max()) < 2**35
        assert layer.weight_planes == (2 if ".patch_embed." in name else 1)


def test_the_optic_disc_is_found(figures: dict[str, Any]) -> None:
    assert figures["retina"]["iou_to_float"] >= 0.90
    assert figures["retina"]["pixels"]["float"] == pytest.approx(29_982, abs=30)


def test_prompts_have_figures_to_float_and_to_truth(figures: dict[str, Any]) -> None:
    assert figures["n_prompts"] == 8 == len(figures["prompts"])
    assert figures["masks_from"] == "golden integer model"
    assert 0.85 < figures["mean_iou_to_float"] <= 1
    assert figures["min_iou_to_float"] == min(prompt["iou_to_float"] for prompt in figures["prompts"])
    assert figures["mean_iou_to_truth"]["int4"] == pytest.approx(
        np.mean([prompt["int4_iou_to_truth"] for prompt in figures["prompts"]])
    )


def test_operations_differ_from_float_arithmetic_by_rounding(figures: dict[str, Any]) -> None:
    """All but LayerNorm, GELU and attention round once, at the end."""
    kinds = {one["kind"] for one in figures["per_layer"]}
    assert kinds == {"QuantizedLayer", "LayerNorm", "ActivationTable", "Residual", "Depthwise", "Attention"}
    for one in figures["per_layer"]:
        if one["kind"] in ("QuantizedLayer", "Residual", "Depthwise"):
            assert one["max_abs_error_lsb"] <= 0.51, one["name"]
        assert one["relative_error"] < 0.05, one["name"]
