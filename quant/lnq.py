"""LNQ: logarithmic nonlinear quantization of attention scores (AHCQ-SAM, arXiv 2503.03088), a mu-law companding.

With N steps, code c stands for ((1 + alpha s)**(c / N) - 1) / alpha. A small alpha gives uniform steps up to the clip
s, a large one steps that grow with p. N is 2**bits - 1 in the search and in the grid; the paper's public code searches
with N = 2**bits - 1 and quantizes with N = 2**bits, one code too many.
"""

from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
from torch import Tensor

from quant.score_grid import LEVEL_HIGH, ScoreGrid, ScoreSample, best_clip, level_high, score_grid

ALPHAS: Final = (0.001, 0.1, 1.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0)
"""Candidates for alpha (paper's search)."""

LONG_ROW_ALPHAS: Final = (500.0, 2000.0, 10000.0)
"""Further ones for rows of thousands of keys, whose scores are small."""


@dataclass(frozen=True)
class LnqChoice:
    """Chosen parameters: alpha, clip s (real), and the mean of |P^.V - P.V| ** 2.4."""

    alpha: float
    clip: float
    error: float


def lnq_grid(alpha: float, clip: float, bits: int, high: int = LEVEL_HIGH) -> ScoreGrid:
    """The grid of one alpha and clip (method 6.3): exactly 2**bits codes, levels in units of clip / high, the threshold
    below code c at c - 1/2 of the curve."""
    steps = 2**bits - 1
    density = np.log1p(alpha * clip)
    code = np.arange(steps + 1, dtype=np.float64)
    return score_grid(
        np.expm1(density * code / steps) / alpha,
        np.expm1(density * (code[1:] - 0.5) / steps) / alpha,
        high,
    )


def fit_lnq(scores: Tensor, values: Tensor, bits: int) -> tuple[ScoreGrid, LnqChoice]:
    """Choose alpha and clip by the error of P.V.

    scores: float32 (..., queries, keys), rows that sum to 1; values: float32 (..., keys, d) with the same leading
    axes; bits: 1 to 8. All pictures among the leading axes are compared together.
    """
    sample = ScoreSample.of(scores, values)
    best: tuple[ScoreGrid, LnqChoice] | None = None
    high = level_high(scores.shape[-1])
    for alpha in ALPHAS if high == LEVEL_HIGH else ALPHAS + LONG_ROW_ALPHAS:
        grid, clip, error = best_clip(sample, partial(lnq_grid, alpha, bits=bits, high=high))
        if best is None or error < best[1].error:
            best = grid, LnqChoice(alpha, clip, error)
    assert best is not None
    return best
