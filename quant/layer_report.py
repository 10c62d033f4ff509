"""What calibration knows of each operation: written beside the model, read by `inspect` and the HTML report."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from quant.fake_quant import FakeQuantAttention, FakeQuantLinear
from quant.histogram import Histogram

SAMPLE_VALUES = 1 << 18
"""Values that a histogram is made of."""


@dataclass(frozen=True)
class LayerReport:
    """One dense layer or attention.

    kind: dense or attention. input_bits, weight_bits: of codes. condition_before, condition_after: condition number of
    the weight around ACNR, None where it did not run. output_error: squared error of the outputs against the float path
    over the outputs' variance, on calibration pictures. inputs, weights: histograms; input_levels, weight_levels: real
    values of the levels of the first K tile and of the first output, to be drawn in. choice: what a search chose, for
    example alpha of LNQ.
    """

    name: str
    kind: str
    input_bits: int
    weight_bits: int | None
    condition_before: float | None
    condition_after: float | None
    output_error: float
    inputs: dict[str, Any]
    input_levels: list[float]
    weights: dict[str, Any] | None
    weight_levels: list[float]
    choice: dict[str, Any]

    def described(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def relative_error(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """Mean squared difference over the variance of `theirs`."""
    error = sum(float((a - b).square().sum()) for a, b in zip(ours, theirs, strict=True))
    mean = sum(float(b.sum()) for b in theirs) / sum(b.numel() for b in theirs)
    spread = sum(float((b - mean).square().sum()) for b in theirs)
    return error / max(spread, 1e-30)


def _sample(values: Tensor) -> Tensor:
    flat = values.flatten()
    return flat[:: max(1, flat.numel() // SAMPLE_VALUES)]


def dense_histograms(layer: FakeQuantLinear, x: Tensor) -> dict[str, Any]:
    """Histograms and levels of a dense layer: inputs (tokens, C) of the first K tile's channels, and all weights."""
    first = layer.grid.permutation[: layer.weight.group]
    levels = layer.grid.levels[0].float()
    offset = layer.grid.offset[: first.numel()].median()
    weights = layer.weight.dequantized()
    return {
        "inputs": Histogram.of(_sample(x[:, first]).numpy()).to_json(),
        "input_levels": ((levels + offset) * layer.grid.scale[0]).tolist(),
        "weights": Histogram.of(_sample(weights).numpy()).to_json(),
        "weight_levels": (torch.unique(layer.weight.integers[0]) * layer.weight.scale[0, 0]).tolist(),
    }


def attention_histograms(attention: FakeQuantAttention, scores: Tensor) -> dict[str, Any]:
    """Histogram and levels of the probabilities (..., queries, keys) of an attention."""
    return {
        "inputs": Histogram.of(_sample(scores).numpy()).to_json(),
        "input_levels": (attention.scores.levels.double() * attention.scores.scale).tolist(),
        "weights": None,
        "weight_levels": [],
    }
