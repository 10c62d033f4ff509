"""One golden run of the real exported model on the retina picture."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from quant.reference import float_mask
from sim.assets import RETINA_BOX, retina_picture
from sim.contract.layer import QuantizedLayer
from sim.golden import GoldenModel, Segmentation
from sim.golden.parameters import Executed
from sim.picture import intersection_over_union, load_picture

TOKENS = 3
"""Tokens of each layer whose results are computed again from the definition."""


@dataclass(frozen=True)
class RetinaRun:
    """samples: per dense layer TOKENS codes of the array and wide results. names: every operation that ran."""

    model: GoldenModel
    names: list[str]
    samples: dict[str, tuple[NDArray[np.uint8], NDArray[np.int16]]]
    result: Segmentation
    float_mask: NDArray[np.bool_]


@pytest.fixture(scope="module")
def retina_run(exported_model: Path) -> RetinaRun:
    picture = load_picture(retina_picture())
    model = GoldenModel.from_folder(exported_model)
    names: list[str] = []
    samples = {}
    rng = np.random.default_rng(11)

    def sample(name: str, executed: Executed) -> None:
        names.append(name)
        layer, codes, wide = executed.operation, executed.codes, executed.output.values
        if isinstance(layer, QuantizedLayer) and isinstance(codes, np.ndarray):
            flat_codes, flat_wide = codes.reshape(-1, codes.shape[-1]), wide.reshape(-1, wide.shape[-1])
            chosen = rng.integers(0, flat_codes.shape[0], TOKENS)
            samples[name] = (layer.array_codes(flat_codes[chosen]), flat_wide[chosen])

    result = model.segment(picture, RETINA_BOX, sample)
    return RetinaRun(model, names, samples, result, float_mask(picture, RETINA_BOX))


def test_every_operation_runs_once(retina_run: RetinaRun) -> None:
    assert sorted(retina_run.names) == sorted(retina_run.model.parameters.operations)


def test_every_layer_gives_the_results_of_the_definition(retina_run: RetinaRun) -> None:
    assert retina_run.samples
    for name, (codes, wide) in retina_run.samples.items():
        layer = retina_run.model.parameters.operation(name, QuantizedLayer).array_form
        for token, results in zip(codes, wide, strict=True):
            total = layer.bias.astype(np.int64) * 4
            for tile, positions in layer.tile_slices():
                levels = layer.codebooks[tile].astype(np.int64)[token[positions]]
                total = total + layer.scale[tile] * (layer.weight[:, positions].astype(np.int64) * levels).sum(axis=1)
            # Fractions round half to even.
            rounded = [round(Fraction(int(value), 1 << 10)) for value in total]
            assert results.tolist() == [min(max(value, -(1 << 15)), (1 << 15) - 1) for value in rounded], name


def test_mask_resembles_that_of_the_float_model(retina_run: RetinaRun) -> None:
    assert intersection_over_union(retina_run.result.mask, retina_run.float_mask) > 0.5
    assert 0 < retina_run.result.predicted_iou < 1.1
