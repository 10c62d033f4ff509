"""Rounding and saturation: the only definitions in the project."""

import numpy as np
from numpy.typing import NDArray


def signed_limits(bits: int) -> tuple[int, int]:
    """Smallest and largest value of a two's complement number of `bits` bits."""
    return -(1 << (bits - 1)), (1 << (bits - 1)) - 1


def round_half_even_shift(value: NDArray[np.int64], shift: int) -> NDArray[np.int64]:
    """`value / 2**shift` rounded to the nearest integer, ties to the even one.

    `value`: int64 of any shape, at most 62 bits; `shift`: 0..61. Returns int64 of the same shape.

    Adding one half less one unit, and one more unit when the floor is odd, before an arithmetic shift carries
    exactly when the remainder is over one half, or is one half while the floor is odd.
    """
    if shift == 0:
        return value
    rounded = value >> shift
    rounded &= 1
    rounded += (1 << (shift - 1)) - 1
    rounded += value
    rounded >>= shift
    return rounded


def saturate(value: NDArray[np.int64], bits: int) -> NDArray[np.int64]:
    """Clamp int64 values to the range of a signed number of `bits` bits."""
    low, high = signed_limits(bits)
    return np.clip(value, low, high)
