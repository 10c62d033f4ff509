"""The family of activation codebooks that calibration chooses from.

The multiplier of the array is a table, so the sixteen levels of a code may be any integers in [-15, 15]. The
family holds the uniform codebook and curves that spend more codes where activations are dense: around the
middle (outputs of LayerNorm and of attention) or at one end (outputs of GELU and ReLU). Sixteen in all, as
many as the array holds at once, so that no layer makes the hardware reload them.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from sim.contract.codebook import affine_codebook, check_levels
from sim.contract.constants import CODES, LEVEL_MAX


def best_levels(values: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.int8]:
    """The sixteen of the 31 integers in [-15, 15] that quantize weighted samples with the least squared error.

    values, weights: float (samples,), values in levels. Exact, by dynamic programming over the chosen levels:
    the samples between two neighbouring chosen levels cost the same whatever else is chosen.
    """
    grid = np.arange(-LEVEL_MAX, LEVEL_MAX + 1, dtype=np.float64)
    count = grid.size
    between = np.full((count + 1, count + 1), np.inf)
    for low in range(-1, count):
        for high in range(low + 1, count + 1):
            left = -np.inf if low < 0 else grid[low]
            right = np.inf if high == count else grid[high]
            if not (np.isfinite(left) or np.isfinite(right)):
                continue
            inside = (values > left) & (values <= right)
            distance = np.minimum(np.abs(values[inside] - left), np.abs(values[inside] - right))
            between[low + 1, high] = float((weights[inside] * distance**2).sum())
    cost = between[0, :count].copy()
    came_from = np.zeros((CODES, count), np.int64)
    for chosen in range(1, CODES):
        options = cost[:, None] + np.where(
            np.arange(count)[:, None] < np.arange(count)[None, :], between[1:, :count], np.inf
        )
        came_from[chosen] = options.argmin(axis=0)
        cost = options.min(axis=0)
    last = int((cost + between[1:, count]).argmin())
    levels = [last]
    for chosen in range(CODES - 1, 0, -1):
        last = int(came_from[chosen, last])
        levels.append(last)
    return check_levels((np.array(levels[::-1]) - LEVEL_MAX).astype(np.int8))


def distinct_levels(curve: NDArray[np.float64], low: int, high: int) -> NDArray[np.int64]:
    """Ascending real levels to as many distinct ascending integers in [low, high]: rounded, then pushed apart.

    Levels that round to one integer move up, as curves are dense at their low end; what leaves the range moves back
    down. ValueError if the range holds fewer integers than there are levels.
    """
    index = np.arange(curve.size)
    if high - low + 1 < curve.size:
        raise ValueError(f"{curve.size} distinct levels do not fit into [{low}, {high}]")
    # The running maximum of level - index is the least ascent of at least one per level.
    levels = np.maximum.accumulate(np.maximum(np.rint(curve).astype(np.int64), low) - index) + index
    return np.minimum(levels, high - index[::-1])


def _codebook(curve: NDArray[np.float64]) -> NDArray[np.int8]:
    """Sixteen ascending real levels to a codebook."""
    return check_levels(distinct_levels(curve, -LEVEL_MAX, LEVEL_MAX))


@cache
def codebook_family() -> NDArray[np.int8]:
    """The codebooks to choose from: int8 (16, 16), row 0 uniform, every row ascending."""
    centred = np.linspace(-1, 1, CODES)
    rising = np.linspace(0, 1, CODES)
    rows = [affine_codebook()]
    rows += [_codebook(LEVEL_MAX * np.sign(centred) * np.abs(centred) ** power) for power in (1.2, 1.4, 1.7)]
    for power in (1.15, 1.3, 1.5, 1.75, 2.1, 2.6):
        low_end = _codebook(2 * LEVEL_MAX * rising**power - LEVEL_MAX)
        rows += [low_end, np.ascontiguousarray(-low_end[::-1])]
    return np.stack(rows)
