"""AGQ: adaptive granularity quantization of attention scores (PTQ4SAM, CVPR 2024), which LNQ replaces.

Levels are s * 2**(-e / tau) and zero. The paper's public code has 2**bits exponents besides zero; here they are
2**bits - 1, so that zero and they make exactly 2**bits codes.
"""

from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
from torch import Tensor

from quant.score_grid import LEVEL_HIGH, ScoreGrid, ScoreSample, best_clip, level_high, score_grid

TAUS: Final = (1, 2, 4)
"""Levels per octave to choose from (paper's candidates)."""


@dataclass(frozen=True)
class AgqChoice:
    """Chosen parameters: tau, clip s (real), and the mean of |P^.V - P.V| ** 2.4."""

    tau: int
    clip: float
    error: float


def agq_grid(tau: int, clip: float, bits: int, high: int = LEVEL_HIGH) -> ScoreGrid:
    """The grid of one tau and clip (method 6.2): zero and 2**bits - 1 exponents, levels in units of clip / high.

    Exponents below one level would fall together as integers and are pushed apart.
    """
    exponents = np.arange(2**bits - 1, dtype=np.float64)[::-1]
    levels = np.concatenate([[0.0], clip * 2.0 ** (-exponents / tau)])
    return score_grid(levels, clip * 2.0 ** (-(exponents + 0.5) / tau), high)


def fit_agq(scores: Tensor, values: Tensor, bits: int) -> tuple[ScoreGrid, AgqChoice]:
    """Choose tau and clip by the error of P.V; arguments as in `quant.lnq.fit_lnq`."""
    sample = ScoreSample.of(scores, values)
    best: tuple[ScoreGrid, AgqChoice] | None = None
    for tau in TAUS:
        grid, clip, error = best_clip(sample, partial(agq_grid, tau, bits=bits, high=level_high(scores.shape[-1])))
        if best is None or error < best[1].error:
            best = grid, AgqChoice(tau, clip, error)
    assert best is not None
    return best
