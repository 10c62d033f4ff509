"""Wide numbers: 16-bit integers of a tensor that shares one power-of-two exponent."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.contract.arithmetic import round_half_even_shift, saturate
from sim.contract.constants import WIDE_BITS


@dataclass(frozen=True)
class Wide:
    """A tensor on its way between two operations: the real value is `values * 2**exponent`. values: int16."""

    values: NDArray[np.int16]
    exponent: int

    def real(self) -> NDArray[np.float32]:
        """Real values float32 of the same shape."""
        return np.ldexp(self.values.astype(np.float32), self.exponent).astype(np.float32, copy=False)

    def with_values(self, values: NDArray[np.int16]) -> "Wide":
        """Other values of the same exponent: a reshaped, padded or gathered tensor."""
        return Wide(values, self.exponent)


def to_wide(real: NDArray[np.float32], exponent: int) -> Wide:
    """Real values rounded (ties to even) and saturated to 16 bits: how the float parts of a model enter integers."""
    scaled = np.rint(np.ldexp(real.astype(np.float64), -exponent))
    return Wide(np.clip(scaled, -(1 << (WIDE_BITS - 1)), (1 << (WIDE_BITS - 1)) - 1).astype(np.int16), exponent)


def finish_wide(value: NDArray[np.int64], shift: int) -> NDArray[np.int16]:
    """`value / 2**shift` as wide values: rounded half to even, saturated to 16 bits; a negative shift multiplies.

    The value must keep within 62 bits, after the multiplication too.
    """
    shifted = value << -shift if shift < 0 else round_half_even_shift(value, shift)
    return saturate(shifted, WIDE_BITS).astype(np.int16)
