"""Addition of two wide tensors, or of one and stored positions: exponents aligned, one rounding, saturation."""

from dataclasses import dataclass

import numpy as np

from sim.contract.checks import expect_exponents, expect_integer
from sim.contract.errors import UserError
from sim.contract.positions import Positions
from sim.contract.wide import Wide, finish_wide


@dataclass(frozen=True)
class Residual:
    """out = (a * 2**first_exponent + b * 2**second_exponent) / 2**wide_exponent, rounded half to even, saturated.

    The exponents of both inputs and of the result differ by at most 16, so the aligned sum fits 33 bits. positions:
    what b is, where it is the same for every picture. Raises UserError when a number is out of range.
    """

    name: str
    first_exponent: int
    second_exponent: int
    wide_exponent: int
    positions: Positions | None = None

    def __post_init__(self) -> None:
        exponents = (self.first_exponent, self.second_exponent, self.wide_exponent)
        expect_exponents(self.name, first=exponents[0], second=exponents[1], wide_exponent=exponents[2])
        expect_integer(self.name, "distance of exponents", max(exponents) - min(exponents), 0, 16)
        if not isinstance(self.positions, Positions | None):
            raise UserError(f"{self.name}: positions must be an object, found {self.positions!r}; export again")

    def run(self, first: Wide, second: Wide) -> Wide:
        """The sum of two wide tensors whose shapes broadcast."""
        if (first.exponent, second.exponent) != (self.first_exponent, self.second_exponent):
            raise ValueError(f"{self.name}: inputs at exponents {first.exponent}, {second.exponent} do not fit")
        base = min(first.exponent, second.exponent)
        total = first.values.astype(np.int64) << (first.exponent - base)
        total = total + (second.values.astype(np.int64) << (second.exponent - base))
        return Wide(finish_wide(total, self.wide_exponent - base), self.wide_exponent)
