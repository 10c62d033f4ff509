"""A function of one wide number by table and linear interpolation: GELU, from 16 bits to 16 bits.

With segments of 2**b input steps, b from 0 to 6:

    i = clamp((x >> b) + 512, 0, 1023),  f = x - ((i - 512) << b)
    y = table[i] + (table[i + 1] - table[i]) * f / 2**b, rounded half to even, saturated to 16 bits

The table is data: 1,025 samples of the function, one block RAM. Where 16 bits reach further than the samples, the last
segments go on as straight lines, which is what GELU is out there.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sim.contract.arithmetic import round_half_even_shift, saturate
from sim.contract.checks import expect_array, expect_exponents, expect_integer
from sim.contract.constants import WIDE_BITS
from sim.contract.wide import Wide, to_wide

SEGMENTS: Final = 1024

TABLE_ENTRIES: Final = SEGMENTS + 1
"""Samples at both ends of every segment."""

LARGEST_SEGMENT_BITS: Final = 6
"""With segments of so many bits the samples span all 16."""

STRAIGHT: Final = 8.0
"""From this magnitude on GELU is a straight line, to within 1e-14."""


@dataclass(frozen=True)
class ActivationTable:
    """table: int16 (1025,), samples at every 2**segment_bits-th input step, the middle one at 0."""

    name: str
    input_exponent: int
    wide_exponent: int
    table: NDArray[np.int16]
    segment_bits: int = LARGEST_SEGMENT_BITS

    def __post_init__(self) -> None:
        expect_exponents(self.name, input_exponent=self.input_exponent, wide_exponent=self.wide_exponent)
        expect_array(self.name, "table", self.table, (TABLE_ENTRIES,), np.int16)
        expect_integer(self.name, "segment_bits", self.segment_bits, 0, LARGEST_SEGMENT_BITS)

    @cached_property
    def _every_value(self) -> NDArray[np.int16]:
        """Result of each of the 65,536 inputs, by the input's bits as an unsigned number."""
        x = np.arange(1 << 16).astype(np.uint16).view(np.int16).astype(np.int64)
        segment = np.clip((x >> self.segment_bits) + SEGMENTS // 2, 0, SEGMENTS - 1)
        samples = self.table.astype(np.int64)
        rise = (samples[segment + 1] - samples[segment]) * (x - ((segment - SEGMENTS // 2) << self.segment_bits))
        return saturate(samples[segment] + round_half_even_shift(rise, self.segment_bits), WIDE_BITS).astype(np.int16)

    def run(self, x: Wide) -> Wide:
        """Wide results of wide inputs, any shape."""
        if x.exponent != self.input_exponent:
            raise ValueError(f"{self.name}: input at exponent {x.exponent}, expected {self.input_exponent}")
        return Wide(self._every_value[x.values.view(np.uint16)], self.wide_exponent)


def sample_function(
    name: str, function: Callable[[NDArray[np.float64]], NDArray[np.float64]], input_exponent: int, wide_exponent: int
) -> ActivationTable:
    """The table of a real function that is straight from STRAIGHT on, with the finest segments that reach there."""
    reach = math.ceil(math.log2(STRAIGHT)) - input_exponent - (SEGMENTS // 2).bit_length() + 1
    bits = min(max(reach, 0), LARGEST_SEGMENT_BITS)
    points = np.ldexp((np.arange(TABLE_ENTRIES, dtype=np.float64) - SEGMENTS // 2) * (1 << bits), input_exponent)
    table = to_wide(function(points).astype(np.float64), wide_exponent).values
    return ActivationTable(name, input_exponent, wide_exponent, table, bits)
