"""Absolute positions: what an encoder adds to its map once, the same for every picture.

    position[y, x, c] = code[y, x, c] << shift[c]                          in steps of the wide exponent

An 8-bit code shifted by up to eight bits is within 16: positions are wide numbers whatever the codes and shifts are,
and no rounding is left for the addition.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sim.contract.checks import expect_array
from sim.contract.errors import UserError
from sim.contract.wide import Wide

LARGEST_SHIFT: Final = 8
CODE_MAX: Final = 127


@dataclass(frozen=True)
class Positions:
    """code: int8 (rows, columns, C). shift: uint8 (C,), 0..8. Raises UserError when a shape, dtype or range is off."""

    name: str
    code: NDArray[np.int8]
    shift: NDArray[np.uint8]

    def __post_init__(self) -> None:
        if self.code.ndim != 3 or 0 in self.code.shape:
            raise UserError(f"{self.name}: positions must be (rows, columns, channels), found {self.code.shape}")
        expect_array(self.name, "code", self.code, self.code.shape, np.int8)
        expect_array(self.name, "shift", self.shift, (self.code.shape[2],), np.uint8, limit=LARGEST_SHIFT)

    @cached_property
    def values(self) -> NDArray[np.int16]:
        """int16 (rows, columns, C), wide steps."""
        return self.code.astype(np.int16) << self.shift.astype(np.int16)

    def at(self, exponent: int) -> Wide:
        """The second operand of an addition that takes it at this exponent."""
        return Wide(self.values, exponent)


def round_positions(name: str, real: NDArray[np.float32], exponent: int) -> Positions:
    """Positions nearest to real values (rows, columns, C), channels with the finest steps that reach their largest.

    Rounding what has been rounded changes nothing, at this exponent or a smaller one.
    """
    steps = np.ldexp(real.astype(np.float64), -exponent)
    largest = np.abs(steps).max(axis=(0, 1))
    needed = np.ceil(np.log2(np.maximum(largest, 1) / (CODE_MAX + 0.5)))
    shift = needed.clip(0, LARGEST_SHIFT).astype(np.uint8)
    code = np.rint(np.ldexp(steps, -shift.astype(np.int32))).clip(-CODE_MAX, CODE_MAX)
    return Positions(name, code.astype(np.int8), shift)
