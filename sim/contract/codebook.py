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
