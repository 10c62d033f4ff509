"""Depthwise 3x3 convolution on wide maps: 8-bit weights, one multiplier and bias per channel.

s = sum over the nine taps of weight[c, tap] * x[pixel + tap, c]       zeros outside the map, at most 26 bits
y = (s * multiplier[c] + bias[c]) / 2**shift, rounded half to even, saturated to 16 bits
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sim.contract.checks import expect_array, expect_exponents, expect_integer
from sim.contract.wide import Wide, finish_wide

VALUES_PER_BAND: Final = 1 << 16
"""Results handled at once, so that running sums stay in a core's cache; changes no bit."""

BIAS_LIMIT: Final = (1 << 44) - 1


@dataclass(frozen=True)
class Depthwise:
    """weight: int8 (C, 3, 3), rows first. multiplier: uint16 (C,). bias: int64 (C,). stride: 1 or 2."""

    name: str
    input_exponent: int
    wide_exponent: int
    stride: int
    weight: NDArray[np.int8]
    multiplier: NDArray[np.uint16]
    bias: NDArray[np.int64]
    shift: int

    def __post_init__(self) -> None:
        channels = self.multiplier.size
        expect_exponents(self.name, input_exponent=self.input_exponent, wide_exponent=self.wide_exponent)
        expect_integer(self.name, "stride", self.stride, 1, 2)
        expect_integer(self.name, "shift", self.shift, 0, 44)
        expect_array(self.name, "weight", self.weight, (channels, 3, 3), np.int8)
        expect_array(self.name, "multiplier", self.multiplier, (channels,), np.uint16)
        expect_array(self.name, "bias", self.bias, (channels,), np.int64, limit=BIAS_LIMIT)

    def run(self, x: Wide) -> Wide:
        """(rows, columns, C) to (ceil(rows / stride), ceil(columns / stride), C)."""
        rows, columns, channels = x.values.shape
        if x.exponent != self.input_exponent or channels != self.multiplier.size:
            raise ValueError(f"{self.name}: input {x.values.shape} at exponent {x.exponent} does not fit the layer")
        padded = np.pad(x.values, ((1, 1), (1, 1), (0, 0)))
        taps = np.ascontiguousarray(self.weight.transpose(1, 2, 0)).astype(np.int32)
        stride = self.stride
        height, width = -(-rows // stride), -(-columns // stride)
        result = np.empty((height, width, channels), np.int16)
        band = max(1, VALUES_PER_BAND // (width * channels))
        for top in range(0, height, band):
            count = min(band, height - top)
            total = np.zeros((count, width, channels), np.int32)
            for ky in range(3):
                for kx in range(3):
                    first = stride * top + ky
                    rows_of_tap = slice(first, first + stride * (count - 1) + 1, stride)
                    columns_of_tap = slice(kx, kx + stride * (width - 1) + 1, stride)
                    total += padded[rows_of_tap, columns_of_tap].astype(np.int32) * taps[ky, kx]
            scaled = total.astype(np.int64)
            scaled *= self.multiplier.astype(np.int64)
            scaled += self.bias
            result[top : top + count] = finish_wide(scaled, self.shift)
        return Wide(result, self.wide_exponent)
