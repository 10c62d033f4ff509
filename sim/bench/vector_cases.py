"""Random operations and values for the benches of the vector units, their extremes among them."""

import math

import numpy as np
from numpy.typing import NDArray

from sim.contract.depthwise import BIAS_LIMIT, Depthwise
from sim.contract.encoder import ADDEND_LIMIT, Encoder

UNIFORM = np.arange(-8, 8)
HYBRID = np.array([-128, -64, -32, -16, -8, -4, -2, -1, 0, 1, 5, 9, 13, 40, 90, 127])
BYTES = np.arange(-128, 128)

SUMS = [
    *[(first, second, 0) for first in (-16, -9, -1, 0) for second in (-16, -3, 0)],
    *[(0, 0, 16), (16, 0, 0), (0, 16, 3), (16, 16, 0), (5, -2, 0), (-1, 15, 0), (7, 7, 1)],
]
"""Exponents of both inputs and of the result."""


def random_wide(rng: np.random.Generator, *shape: int) -> NDArray[np.int16]:
    """Values of every size, both ends among them."""
    values = rng.integers(-(1 << 15), 1 << 15, shape) >> rng.integers(0, 12, shape)
    values.flat[:2] = -(1 << 15), (1 << 15) - 1
    return values.astype(np.int16)


def random_encoder(rng: np.random.Generator, channels: int, *levels: NDArray[np.int64]) -> Encoder:
    """Indices that spread over the table and over both clamps, with a shift of its own per tile and any permutation."""
    shift = rng.integers(0, 22, -(-channels // 64))
    shift[1:2] = 30
    per_channel = np.repeat(shift, 64)[:channels]
    # Sixteen bits of x times this, shifted, cover the table about once.
    reach = np.ldexp(rng.uniform(-2, 2, channels), np.minimum(per_channel + 9 - 16, 15))
    addend = np.clip(np.ldexp(rng.uniform(0, 512, channels), per_channel), -ADDEND_LIMIT, ADDEND_LIMIT)
    addend[: channels // 9] = rng.choice([-ADDEND_LIMIT, ADDEND_LIMIT], channels // 9)
    return Encoder(
        name=f"random {channels}",
        input_exponent=0,
        permutation=rng.permutation(channels).astype(np.uint16),
        multiplier=np.clip(np.rint(reach), -32767, 32767).astype(np.int16),
        addend=addend.astype(np.int32),
        shift=shift.astype(np.uint8),
        levels=np.stack(levels).astype(np.int8),
    )


def gelu(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """GELU (Hendrycks and Gimpel, equation 1)."""
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def random_depthwise(rng: np.random.Generator, channels: int, stride: int, shift: int) -> Depthwise:
    """Results that use and now and then leave the 16 bits; the largest sums and biases are among them."""
    weight = rng.integers(-128, 128, (channels, 3, 3))
    multiplier = rng.integers(0, 1 << min(max(shift - 6, 1), 16), channels)
    bias = np.ldexp(rng.uniform(-1, 1, channels), min(shift + 13, 44)).astype(np.int64)
    weight[0], multiplier[0], bias[0] = -128, 65535, 0
    bias[-2:] = [BIAS_LIMIT, -BIAS_LIMIT]
    return Depthwise(
        name=f"{channels} channels, stride {stride}, shift {shift}",
        input_exponent=0,
        wide_exponent=0,
        stride=stride,
        weight=weight.astype(np.int8),
        multiplier=multiplier.astype(np.uint16),
        bias=bias,
        shift=shift,
    )
