"""HLUQ: hybrid log-uniform quantization of the outputs of GELU and ReLU (AHCQ-SAM, arXiv 2503.03088).

Most of these values lie close to their minimum, and few are large. The lowest part of the range, up to s_log above
the minimum, gets levels at s_log * 2**-e; the rest gets uniform steps of s_uni. Two properties of the paper's public
code are corrected. Values below the finest log level become the minimum only if they lie in the log part; the code
also resets large values. And the levels are exactly 2**bits: the first uniform level is the coarsest log level.

The levels are stored as 8-bit integers, so a value takes the nearest of them. The code of the paper rounds the
logarithm instead, whose thresholds lie at the geometric mean of two levels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quant.codebooks import distinct_levels
from quant.input_grid import LEVEL_HIGH, LEVEL_LOW, InputGrid, store_offset
from sim.contract.constants import TILE_CHANNELS

RANGE_RATES: Final = (0.1, 0.3, 0.5)
"""Shares rho of the range that the log part covers (paper's candidates)."""

GRID_RATES: Final = (1 / 8, 1 / 4, 1 / 2)
"""Shares g of the codes that the log part gets (paper's candidates)."""

SAMPLE_TOKENS: Final = 256
"""Tokens, of all pictures together, on which output errors are compared."""

REFINEMENTS: Final = (1.3, 1.14, 1.06)
"""Factors by which both scales are varied in turn, coarse to fine."""


@dataclass(frozen=True)
class HluqChoice:
    """Chosen parameters. range_rate: rho; grid_rate: g; minimum: real value of the lowest level; log_scale: s_log and
    uniform_scale: s_uni, real; error: mean squared error of the outputs of the layer, mean over pictures."""

    range_rate: float
    grid_rate: float
    minimum: float
    log_scale: float
    uniform_scale: float
    error: float


def hluq_levels(log_scale: float, uniform_scale: float, log_levels: int, bits: int) -> NDArray[np.float64]:
    """The 2**bits levels above the minimum, ascending (method 4.1): zero, s_log * 2**-e for e = log_levels - 1 .. 0,
    then s_log + k * s_uni for k = 1 .. 2**bits - log_levels - 1."""
    logarithmic = log_scale * 2.0 ** -np.arange(log_levels, dtype=np.float64)[::-1]
    uniform = log_scale + uniform_scale * np.arange(1, 2**bits - log_levels, dtype=np.float64)
    return np.concatenate([[0.0], logarithmic, uniform])


def hluq_grid(channels: int, minimum: float, levels: NDArray[np.float64]) -> InputGrid:
    """One grid for all channels from real levels above `minimum`, the largest at the highest 8-bit level.

    Log levels finer than one 255th of the range would fall together as integers; they are pushed apart, so that the
    grid has as many distinct levels as `levels`.
    """
    bits = levels.size.bit_length() - 1
    scale = float(levels[-1]) / (LEVEL_HIGH - LEVEL_LOW)
    integers = torch.from_numpy(distinct_levels(levels / scale + LEVEL_LOW, LEVEL_LOW, LEVEL_HIGH))
    tiles = -(-channels // TILE_CHANNELS)
    offset = store_offset(torch.full((channels,), minimum / scale - LEVEL_LOW))
    return InputGrid(torch.arange(channels), torch.full((tiles,), scale), offset, (integers,) * tiles, bits)


def _output_error(grid: InputGrid, pictures: Sequence[Tensor], weight: Tensor) -> float:
    """Mean squared error of the outputs, mean over pictures; the bias cancels."""
    errors = [((grid.quantize(x) - x) @ weight.T).square().mean() for x in pictures]
    return float(torch.stack(errors).mean())


def _pictures(x: Tensor | Sequence[Tensor]) -> list[Tensor]:
    if isinstance(x, Tensor) and x.ndim == 2:
        return [x]
    return list(x)


def fit_hluq(
    x: Tensor | Sequence[Tensor], weight: Tensor, bits: int, refine: bool = True
) -> tuple[InputGrid, HluqChoice]:
    """Choose rho and g, then both scales, by the error that they cause in the outputs of the layer (method 4.3).

    x: inputs float32 (tokens, C) of one picture, or one such tensor for each picture; weight: float32 (outputs, C);
    bits: 4 to 7. `refine` varies s_log and s_uni around the values that rho and g give, which the paper leaves to
    training. Returns the grid, one level set and offset for the whole tensor, and what was chosen.
    ValueError if there is no picture.
    """
    pictures = _pictures(x)
    if not pictures:
        raise ValueError("HLUQ needs inputs of at least one picture")
    minimum = float(torch.stack([picture.min() for picture in pictures]).mean())
    maximum = float(torch.stack([picture.max() for picture in pictures]).mean())
    extent = max(maximum - minimum, 1e-6)
    per_picture = max(1, SAMPLE_TOKENS // len(pictures))
    sample = [picture[:: max(1, -(-picture.shape[0] // per_picture))].float() for picture in pictures]
    channels, steps = weight.shape[1], 2**bits - 1

    def attempt(rho: float, g: float, log_scale: float, uniform_scale: float) -> tuple[InputGrid, HluqChoice]:
        levels = hluq_levels(log_scale, uniform_scale, round(g * 2**bits), bits)
        grid = hluq_grid(channels, minimum, levels)
        error = _output_error(grid, sample, weight)
        return grid, HluqChoice(rho, g, minimum, log_scale, uniform_scale, error)

    best = min(
        (
            attempt(rho, g, rho * extent, (1 - rho) * extent / (steps * (1 - g)))
            for rho in RANGE_RATES
            for g in GRID_RATES
        ),
        key=lambda one: one[1].error,
    )
    for factor in REFINEMENTS if refine else ():
        for log_factor, uniform_factor in ((factor, 1.0), (1 / factor, 1.0), (1.0, factor), (1.0, 1 / factor)):
            at = best[1]
            scales = (at.log_scale * log_factor, at.uniform_scale * uniform_factor)
            best = min(best, attempt(at.range_rate, at.grid_rate, *scales), key=lambda one: one[1].error)
    return best
