"""One golden run of the real exported model on the retina picture."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sim.assets import RETINA_BOX, retina_picture
from sim.contract.linear import QuantizedLinear
from sim.golden import GoldenModel, Segmentation
from sim.picture import intersection_over_union, load_picture

TOKENS = 3
"""Tokens of each layer whose results are computed again from the definition."""


@dataclass(frozen=True)
class RetinaRun:
    """samples: per layer TOKENS codes and wide results. errors: per layer, against its float twin."""

    layers: dict[str, QuantizedLinear]
    samples: dict[str, tuple[NDArray[np.uint8], NDArray[np.int16]]]
    errors: dict[str, float]
    result: Segmentation
    float_result: Segmentation


@pytest.fixture(scope="module")
def retina_run(exported_model: Path, float_model: GoldenModel, with_twins: Callable[..., Any]) -> RetinaRun:
    picture = load_picture(retina_picture())
    model, errors = with_twins(GoldenModel.from_folder(exported_model), float_model.parameters)
    samples = {}
    rng = np.random.default_rng(11)

    def sample(name: str, codes: NDArray[np.uint8], wide: NDArray[np.int16]) -> None:
        flat_codes, flat_wide = codes.reshape(-1, codes.shape[-1]), wide.reshape(-1, wide.shape[-1])
        chosen = rng.integers(0, flat_codes.shape[0], TOKENS)
        samples[name] = (flat_codes[chosen], flat_wide[chosen])

    return RetinaRun(
        layers=dict(model.parameters.quantized),
        samples=samples,
        errors=errors,
        result=model.segment(picture, RETINA_BOX, sample),
        float_result=float_model.segment(picture, RETINA_BOX),
    )


def test_every_layer_gives_the_results_of_the_definition(retina_run: RetinaRun) -> None:
    assert retina_run.samples.keys() == retina_run.layers.keys()
    for name, (codes, wide) in retina_run.samples.items():
        layer = retina_run.layers[name]
        for token, results in zip(codes, wide, strict=True):
            total = layer.bias.astype(np.int64) * 4
            for tile, positions in layer.tile_slices():
                levels = layer.codebooks[tile].astype(np.int64)[token[positions]]
                total = total + layer.scale[tile] * (layer.weight[:, positions].astype(np.int64) * levels).sum(axis=1)
            # Fractions round half to even.
            rounded = [round(Fraction(int(value), 1 << 10)) for value in total]
            assert results.tolist() == [min(max(value, -(1 << 15)), (1 << 15) - 1) for value in rounded], name


def test_every_layer_stays_near_the_float_layer_it_stands_for(retina_run: RetinaRun) -> None:
    """Offsets, permutation, scales and exponents mean the same to the exporter and to the golden model.

    Layers behind a LayerNorm are left out: the exporter equalises the norm's channels, and undoes it in the layer.
    """
    assert retina_run.errors.keys() == retina_run.layers.keys()
    equalised = (".attn.qkv", ".mlp.fc1")
    errors = {name: error for name, error in retina_run.errors.items() if not name.endswith(equalised)}
    assert len(errors) == 68
    worst = max(errors, key=lambda name: errors[name])
    assert errors[worst] < 0.5, f"{worst}: {errors[worst]:.3f} of the variance is lost"
    assert float(np.mean(list(errors.values()))) < 0.1


def test_mask_resembles_that_of_the_float_model(retina_run: RetinaRun) -> None:
    ours, exact = retina_run.result, retina_run.float_result
    assert intersection_over_union(ours.mask, exact.mask) > 0.5
    assert 0 < ours.predicted_iou < 1.1
