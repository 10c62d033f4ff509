"""What calibration knows of each operation: written beside the model, read by `inspect` and the HTML report."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

import torch
from torch import Tensor

from quant.fake_quant import FakeQuantAttention, FakeQuantLinear
from quant.histogram import Histogram

SAMPLE_VALUES = 1 << 18
"""Values that a histogram is made of."""

BINS: Final = 48

LISTED_LEVELS: Final = 64
"""Levels stored of an operation: of the 256 of a byte every fourth, and the last."""

DIGITS: Final = 5
"""Significant digits stored: a plot shows no more, and hundreds of operations stay a small file."""


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
        """As JSON, real numbers to DIGITS digits."""
        described: dict[str, Any] = _rounded(asdict(self))
        return described

    @classmethod
    def from_json(cls, entry: Any) -> "LayerReport":
        """What `described` gave. Raises ValueError when a field is missing, unknown or not of its type."""
        if not isinstance(entry, dict) or set(entry) != {field.name for field in fields(cls)}:
            raise ValueError("an operation's entry lacks fields or has unknown ones")
        for field, kinds in _FIELD_KINDS.items():
            if not isinstance(entry[field], kinds) or isinstance(entry[field], bool):
                raise ValueError(f"{field} is {entry[field]!r}")
        for values in (entry["input_levels"], entry["weight_levels"]):
            if not all(isinstance(value, int | float) for value in values):
                raise ValueError("a level is not a number")
        report = cls(**entry)
        for histogram in (report.inputs, report.weights):
            if histogram is not None:
                read_histogram(histogram)
        return report


_FIELD_KINDS: Final[dict[str, Any]] = {
    "name": str,
    "kind": str,
    "input_bits": int,
    "weight_bits": int | None,
    "condition_before": int | float | None,
    "condition_after": int | float | None,
    "output_error": int | float,
    "inputs": dict,
    "input_levels": list,
    "weights": dict | None,
    "weight_levels": list,
    "choice": dict,
}


def _rounded(value: Any) -> Any:
    """Floats to DIGITS significant digits, at any depth; rounding again changes nothing."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    return [_rounded(part) for part in value] if isinstance(value, list | tuple) else value


def stored_histogram(values: Any) -> dict[str, Any]:
    """A histogram of BINS bins as JSON: its bins are of one width, so their first and last edge tell all edges."""
    histogram = Histogram.of(values, BINS).to_json()
    edges = histogram.pop("edges")
    return {"first": edges[0], "last": edges[-1], **histogram}


def read_histogram(entry: dict[str, Any]) -> Histogram:
    """What `stored_histogram` gave. Raises ValueError when it is damaged."""
    try:
        first, last, count = float(entry["first"]), float(entry["last"]), len(entry["counts"])
        edges = [first + (last - first) * index / count for index in range(count + 1)]
        rest = {key: entry[key] for key in ("counts", "below", "above", "low", "high")}
        histogram = Histogram.from_json({"edges": edges, **rest})
        sound = first <= last and all(int(part) >= 0 for part in (*histogram.counts, histogram.below, histogram.above))
    except (KeyError, TypeError, ZeroDivisionError) as error:
        raise ValueError(f"a histogram is damaged ({error!r})") from error
    if not sound:
        raise ValueError("a histogram is damaged: edges out of order or a negative count")
    return histogram


def _listed(levels: Sequence[float]) -> list[float]:
    """At most LISTED_LEVELS levels, evenly spaced among all, and the last."""
    step = -(-len(levels) // LISTED_LEVELS)
    kept = list(levels[::step])
    return kept if kept[-1:] == list(levels[-1:]) else [*kept, levels[-1]]


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
        "inputs": stored_histogram(_sample(x[:, first]).numpy()),
        "input_levels": _listed(((levels + offset) * layer.grid.scale[0]).tolist()),
        "weights": stored_histogram(_sample(weights).numpy()),
        "weight_levels": _listed((torch.unique(layer.weight.integers[0]) * layer.weight.scale[0, 0]).tolist()),
    }


def attention_histograms(attention: FakeQuantAttention, scores: Tensor) -> dict[str, Any]:
    """Histogram and levels of the probabilities (..., queries, keys) of an attention."""
    return {
        "inputs": stored_histogram(_sample(scores).numpy()),
        "input_levels": _listed((attention.scores.levels.double() * attention.scores.scale).tolist()),
        "weights": None,
        "weight_levels": [],
    }
