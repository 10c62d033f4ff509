"""The attention scores after softmax: levels from 0 up of one scale, thresholds between them, one grid for a tensor.

Thresholds need not be midpoints: a hardware softmax compares -log2(p) with their logarithms, so any ascending
thresholds cost the same. Every quantizer of scores has this form: uniform (here), LNQ (`quant.lnq`), AGQ
(`quant.agq`). Their parameters are chosen by the error of P.V (AHCQ-SAM, method 6).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quant.codebooks import distinct_levels

LEVEL_HIGH: Final = 255
"""Largest level of short rows: two nibbles, two passes of the array."""

LONG_ROW_LEVEL_HIGH: Final = 4095
"""Largest level of long rows, three passes. Among thousands of keys a typical score is a hundredth of the largest, and
one 255th of the largest would be a coarse step for it."""

LONG_ROW_KEYS: Final = 512

SAMPLE_ROWS: Final = 256
"""Query rows on which candidates are compared."""

SAMPLE_SCORES: Final = 2**19
"""Scores in the compared rows, at most: fewer rows of global attention than of windows."""

ERROR_POWER: Final = 2.4
"""Power of the error of P.V in the paper's search."""


@dataclass(frozen=True)
class ScoreGrid:
    """How scores become codes.

    thresholds: float64 (codes - 1,), ascending, on p; levels: int64 (codes,), ascending in [0, 4095], the first 0;
    scale: real value of one level. The code of p is the number of thresholds below it.
    """

    thresholds: Tensor
    levels: Tensor
    scale: float

    def __post_init__(self) -> None:
        if self.thresholds.numel() != self.levels.numel() - 1 or not bool((self.thresholds.diff() > 0).all()):
            raise ValueError(f"{self.levels.numel()} levels need one ascending threshold fewer")
        if (
            int(self.levels[0])
            or int(self.levels[-1]) > LONG_ROW_LEVEL_HIGH
            or not bool((self.levels.diff() > 0).all())
        ):
            raise ValueError(f"levels of scores are distinct and ascend from 0 to at most {LONG_ROW_LEVEL_HIGH}")

    def codes(self, p: Tensor) -> Tensor:
        """Codes of scores of any shape: int32 of the same shape. Compared in the type of `p`."""
        return torch.bucketize(p, self.thresholds.to(p.dtype), out_int32=True)

    def quantize(self, p: Tensor) -> Tensor:
        """What the codes of `p` stand for: the shape and type of `p`."""
        return (self.levels.to(p.dtype) * self.scale)[self.codes(p)]


def log2_thresholds(grid: ScoreGrid) -> Tensor:
    """-log2 of the thresholds for a softmax in the log domain: float64 (codes - 1,), descending, non-negative for
    thresholds up to 1. A score is above a threshold where its own -log2 is below the entry."""
    return -torch.log2(grid.thresholds)


def level_high(keys: int) -> int:
    """Largest level for rows of so many keys."""
    return LEVEL_HIGH if keys <= LONG_ROW_KEYS else LONG_ROW_LEVEL_HIGH


def score_grid(curve: NDArray[np.float64], thresholds: NDArray[np.float64], high: int = LEVEL_HIGH) -> ScoreGrid:
    """Grid from real ascending levels `curve`, the first 0, and the thresholds between them.

    The last level is `high`; levels that fall together as integers are pushed apart, so no code is lost. Thresholds
    stay where the curve has them: the scores that a pushed level rounds up make up for those that become zero, and with
    values whose mean is not zero P.V loses less than with thresholds between the integers.
    """
    scale = float(curve[-1]) / high
    levels = distinct_levels(curve / scale, 0, high)
    return ScoreGrid(torch.from_numpy(thresholds), torch.from_numpy(levels), scale)


@dataclass(frozen=True)
class ScoreSample:
    """Rows on which candidates are compared: scores (leads, rows, keys), values (leads, keys, d), their product
    (leads, rows, d), and the largest score of all."""

    scores: Tensor
    values: Tensor
    product: Tensor
    peak: float

    @classmethod
    def of(cls, scores: Tensor, values: Tensor) -> "ScoreSample":
        """Rows spread over all of scores (..., queries, keys) with values (..., keys, d), the same leading axes."""
        peak = float(scores.amax())
        queries, keys = scores.shape[-2:]
        values = values.expand(*scores.shape[:-2], *values.shape[-2:]).reshape(-1, *values.shape[-2:])
        scores = scores.reshape(-1, queries, keys)
        rows = max(1, min(SAMPLE_ROWS, SAMPLE_SCORES // keys))
        lead = torch.linspace(0, scores.shape[0] - 1, min(rows, scores.shape[0])).round().long()
        each = min(max(1, rows // lead.numel()), queries)
        # Other queries in every window and head: first ones first, then moved on from lead to lead.
        shift = torch.arange(lead.numel()) * queries // lead.numel()
        query = (shift[:, None] + torch.arange(each) * queries // each) % queries
        scores, values = scores[lead[:, None], query].float(), values[lead].float()
        return cls(scores, values, scores @ values, peak)

    def error(self, grid: ScoreGrid) -> float:
        """Mean of |P^.V - P.V| ** ERROR_POWER."""
        return float((grid.quantize(self.scores) @ self.values - self.product).abs().pow(ERROR_POWER).mean())


def best_clip(sample: ScoreSample, make: Callable[[float], ScoreGrid]) -> tuple[ScoreGrid, float, float]:
    """Grid, clip s and error of the best s in [max(1e-4, 0.1 max p), max p]: five clips in geometric steps, then
    halved steps around the best."""
    low = min(max(1e-4, 0.1 * sample.peak), max(sample.peak, 1e-6))
    high = max(sample.peak, low)

    def attempt(place: float) -> tuple[float, float, ScoreGrid]:
        grid = make(low * (high / low) ** place)
        return sample.error(grid), place, grid

    best = min((attempt(place / 4) for place in range(5)), key=lambda one: one[0])
    for step in (1 / 8, 1 / 16):
        around = [place for place in (best[1] - step, best[1] + step) if 0 <= place <= 1]
        best = min([best, *(attempt(place) for place in around)], key=lambda one: one[0])
    error, place, grid = best
    return grid, low * (high / low) ** place, error


def fit_uniform_scores(scores: Tensor, values: Tensor, bits: int) -> tuple[ScoreGrid, float]:
    """Uniform levels 0 .. 2**bits - 1 with the clip that is best for P.V, and its error.

    scores: float32 (..., queries, keys), rows that sum to 1; values: float32 (..., keys, d); bits: 1 to 8.
    """
    steps = 2**bits - 1

    def make(clip: float) -> ScoreGrid:
        scale = clip / steps
        thresholds = (torch.arange(steps, dtype=torch.float64) + 0.5) * scale
        return ScoreGrid(thresholds, torch.arange(steps + 1), scale)

    grid, _, error = best_clip(ScoreSample.of(scores, values), make)
    return grid, error
