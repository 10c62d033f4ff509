"""LayerNorm in integers: exact sums, a reciprocal square root by table and one Newton step, an affine per channel.

With C channels x[c] of one token, in steps of the input:

    s1 = sum x          v = C * sum x**2 - s1**2 + epsilon            (C**2 times the variance, exact)
    v  = m * 4**s with m in [1, 4);    r = 1 / sqrt(m), 16 fraction bits, relative error under 2**-14
    n  = ((C * x - s1) * r) / 2**(16 + s - 10), rounded half to even, saturated to 16 bits      (10 fraction bits)
    y  = (n * gain[c] + bias[c]) / 2**shift, rounded half to even, saturated to 16 bits

Ba, Kiros, Hinton, Layer Normalization, equation 4.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sim.contract.arithmetic import saturate
from sim.contract.checks import expect_array, expect_exponents, expect_integer
from sim.contract.constants import WIDE_BITS
from sim.contract.errors import UserError
from sim.contract.wide import Wide, finish_wide

NORM_FRACTION_BITS: Final = 10
"""Fraction bits of a normalised value: 32 standard deviations fit 16 bits."""

ROOT_FRACTION_BITS: Final = 16
"""Fraction bits of the reciprocal square root."""

MANTISSA_FRACTION_BITS: Final = 16
"""Fraction bits of the mantissa m in [1, 4): 18 bits in all, one operand of an 18-bit multiplier."""

ROOT_TABLE: Final[NDArray[np.int64]] = np.minimum(
    np.rint((1 << ROOT_FRACTION_BITS) / np.sqrt((np.arange(64, 256) + 0.5) / 64)).astype(np.int64),
    (1 << ROOT_FRACTION_BITS) - 1,
)
"""1 / sqrt of the middle of each 64th of [1, 4), by the 8 leading bits of the mantissa less 64: 192 entries."""


def reciprocal_root(v: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(r, s) with 1 / sqrt(v) = r * 2**-(ROOT_FRACTION_BITS + s), for v int64 in [1, 2**62)."""
    # float64 tells the bit length exactly up to 2**53; above, a rounded-up power of two is corrected.
    length = np.frexp(v.astype(np.float64))[1].astype(np.int64)
    length -= (v >> np.maximum(length - 1, 0)) == 0
    s = (length - 1) >> 1
    shift = 2 * s - MANTISSA_FRACTION_BITS
    mantissa = np.where(shift >= 0, v >> np.maximum(shift, 0), v << np.maximum(-shift, 0))
    root = ROOT_TABLE[(mantissa >> (MANTISSA_FRACTION_BITS - 6)) - 64]
    product = (mantissa * root) >> MANTISSA_FRACTION_BITS
    near_one = (product * root) >> ROOT_FRACTION_BITS
    return (root * ((3 << ROOT_FRACTION_BITS) - near_one)) >> (ROOT_FRACTION_BITS + 1), s


@dataclass(frozen=True)
class LayerNorm:
    """One LayerNorm over the last axis, C channels.

    name: of the operation. input_exponent, wide_exponent: of input and result. epsilon: added to C**2 times the
    variance, in squared input steps. gain: int16 (C,), bias: int32 (C,), shift: 0..40, the affine.
    Raises UserError when a shape, dtype or range is off.
    """

    name: str
    input_exponent: int
    wide_exponent: int
    epsilon: int
    gain: NDArray[np.int16]
    bias: NDArray[np.int32]
    shift: int

    def __post_init__(self) -> None:
        expect_exponents(self.name, input_exponent=self.input_exponent, wide_exponent=self.wide_exponent)
        expect_integer(self.name, "epsilon", self.epsilon, 1, 1 << 60)
        expect_integer(self.name, "shift", self.shift, 0, 40)
        expect_array(self.name, "gain", self.gain, (self.gain.size,), np.int16)
        expect_array(self.name, "bias", self.bias, (self.gain.size,), np.int32)
        if not 1 <= self.gain.size <= 4096:
            raise UserError(f"{self.name}: {self.gain.size} channels, 1 to 4096 are possible; export the model again")

    def normalise(self, values: NDArray[np.int16]) -> NDArray[np.int64]:
        """Normalised values int64 (..., C), NORM_FRACTION_BITS fraction bits, within 16 bits."""
        channels = self.gain.size
        x = values.astype(np.int64)
        total = x.sum(axis=-1, keepdims=True)
        spread = channels * np.square(x).sum(axis=-1, keepdims=True) - total * total + self.epsilon
        root, s = reciprocal_root(spread)
        x *= channels
        x -= total
        x *= root
        shift = s + (ROOT_FRACTION_BITS - NORM_FRACTION_BITS)
        # round_half_even_shift with one shift per token; s >= 0, so the shift is at least 6.
        x += (x >> shift & 1) + (np.left_shift(np.int64(1), shift - 1) - 1)
        x >>= shift
        return saturate(x, WIDE_BITS)

    def run(self, x: Wide) -> Wide:
        """Wide results of wide inputs (..., C)."""
        if x.exponent != self.input_exponent or x.values.shape[-1] != self.gain.size:
            raise ValueError(f"{self.name}: input {x.values.shape} at exponent {x.exponent} does not fit the layer")
        return Wide(self.affine(self.normalise(x.values)), self.wide_exponent)

    def affine(self, normalised: NDArray[np.int64]) -> NDArray[np.int16]:
        """Wide values (..., C) of normalised ones, which are overwritten."""
        normalised *= self.gain
        normalised += self.bias
        return finish_wide(normalised, self.shift)
