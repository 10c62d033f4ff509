"""Codebooks: what integer each of the sixteen 4-bit codes stands for."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sim.contract.constants import CODES, LEVEL_MAX
from sim.contract.errors import UserError


def affine_codebook() -> NDArray[np.int8]:
    """The uniform codebook: code a stands for a - 8. Zero points live in the offsets (and so in the bias)."""
    return (np.arange(CODES) - CODES // 2).astype(np.int8)


def high_plane_codebook() -> NDArray[np.int8]:
    """Codebook of the high nibble of an 8-bit code: level a - 8, worth sixteen levels of the low plane."""
    return affine_codebook()


def low_plane_codebook() -> NDArray[np.int8]:
    """Codebook of the low nibble of an 8-bit code: level a."""
    return np.arange(CODES).astype(np.int8)


def byte_planes(value: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """High and low plane codes of values in units of the low plane's level, rounded and clamped to -128..127.

    A value on a threshold goes to the lower level, as in `nearest_code`. 16 * (high - 8) + low is the level.
    """
    level = np.clip(np.ceil(value - np.float32(0.5)), -128, 127).astype(np.int16)
    return ((level >> 4) + 8).astype(np.uint8), (level & 15).astype(np.uint8)


def check_levels(levels: ArrayLike, where: str = "codebook") -> NDArray[np.int8]:
    """Levels as int8 (16,), or a UserError that names `where` they came from.

    Any sixteen integers within [-LEVEL_MAX, LEVEL_MAX] form a codebook: uniform, logarithmic, hybrid,
    in any order, with duplicates.
    """
    array = np.asarray(levels)
    if array.shape != (CODES,) or array.dtype.kind not in "iu":
        raise UserError(f"{where}: a codebook is {CODES} integers, this one is {array.dtype} of shape {array.shape}")
    if int(np.abs(array.astype(np.int64)).max()) > LEVEL_MAX:
        raise UserError(f"{where}: codebook levels must lie in [{-LEVEL_MAX}, {LEVEL_MAX}], found {array.tolist()}")
    return array.astype(np.int8)


def nearest_code(value: NDArray[np.float32], levels: NDArray[np.int8]) -> NDArray[np.uint8]:
    """The code whose level is nearest to each value; on a threshold (a midpoint) the lower level wins.

    `value`: float of any shape, in units of levels; `levels`: int8 (16,). Returns uint8 of the same shape.
    Of codes with equal levels the first one is used.
    """
    distinct, first_code = np.unique(levels.astype(np.int64), return_index=True)
    thresholds = (distinct[1:] + distinct[:-1]) / 2
    # Thresholds are multiples of one half, so the half step a value lies in decides its level.
    half_steps = (np.arange(4 * LEVEL_MAX + 2) - 2 * LEVEL_MAX) / 2
    table = first_code.astype(np.uint8)[np.searchsorted(thresholds, half_steps, side="left")]
    half_step = np.ceil(value * 2)
    half_step += 2 * LEVEL_MAX
    np.clip(half_step, 0, len(table) - 1, out=half_step)
    return table[half_step.astype(np.uint8)]
