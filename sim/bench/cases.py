"""Random layers and codes for benches: every legal number may occur, extremes more often than by chance."""

import numpy as np
from numpy.typing import NDArray

from sim.contract.constants import CODES, LEVEL_MAX, TILE_CHANNELS, WEIGHT_MAX, WEIGHT_MIN
from sim.contract.encoder import Encoder
from sim.contract.layer import BYTE_WEIGHT_MAX, BYTE_WEIGHT_MIN, QuantizedLayer
from sim.contract.linear import QuantizedLinear


def layer_of(
    weight: NDArray[np.int8], scale: NDArray[np.uint16], bias: NDArray[np.int32], codebooks: NDArray[np.int8]
) -> QuantizedLinear:
    """A layer of one pass with the given integers (see QuantizedLinear) and exponent 0."""
    return QuantizedLinear("bench", weight, scale, bias, codebooks, wide_exponent=0)


def random_layer(
    generator: np.random.Generator,
    inputs: int,
    outputs: int,
    *,
    codebooks: int | None = None,
    scale_limit: int = 1 << 16,
) -> QuantizedLinear:
    """Weights, levels, scales and biases uniform over all that is legal; results saturate now and then.

    codebooks: number of distinct codebooks, one per K tile when None. scale_limit: scales stay below it.
    """
    tiles = -(-inputs // TILE_CHANNELS)
    levels = generator.integers(-LEVEL_MAX, LEVEL_MAX + 1, (tiles if codebooks is None else codebooks, CODES))
    return layer_of(
        weight=generator.integers(WEIGHT_MIN, WEIGHT_MAX + 1, (outputs, inputs)).astype(np.int8),
        scale=generator.integers(0, scale_limit, (tiles, outputs)).astype(np.uint16),
        bias=generator.integers(-(1 << 22), 1 << 22, outputs).astype(np.int32),
        codebooks=np.resize(levels, (tiles, CODES)).astype(np.int8),
    )


def random_codes(generator: np.random.Generator, layer: QuantizedLinear, tokens: int) -> NDArray[np.uint8]:
    """Codes uint8 (tokens, K), uniform."""
    return generator.integers(0, CODES, (tokens, layer.in_features)).astype(np.uint8)


def random_byte_layer(
    generator: np.random.Generator, channels: int, outputs: int, *, weight_planes: int
) -> QuantizedLayer:
    """A layer with 8-bit inputs, and 8-bit weights where `weight_planes` is 2: two or four passes of the array."""
    tiles = -(-channels // TILE_CHANNELS)
    low, high = (WEIGHT_MIN, WEIGHT_MAX) if weight_planes == 1 else (BYTE_WEIGHT_MIN, BYTE_WEIGHT_MAX)
    return QuantizedLayer(
        name="bench",
        encoder=Encoder(
            name="bench",
            input_exponent=0,
            permutation=generator.permutation(channels).astype(np.uint16),
            multiplier=np.ones(channels, np.int16),
            addend=np.zeros(channels, np.int32),
            shift=np.zeros(tiles, np.uint8),
            levels=np.arange(-128, 128, dtype=np.int8)[None],
        ),
        weight=generator.integers(low, high + 1, (outputs, channels)).astype(np.int8),
        scale=generator.integers(0, (1 << 12) >> (4 * (weight_planes - 1)), (tiles, outputs)).astype(np.uint16),
        bias=generator.integers(-(1 << 22), 1 << 22, outputs).astype(np.int32),
        wide_exponent=0,
        weight_planes=weight_planes,
    )


def random_bytes(generator: np.random.Generator, layer: QuantizedLayer, tokens: int) -> NDArray[np.uint8]:
    """Codes uint8 (tokens, C) of a layer of 8-bit inputs, uniform."""
    return generator.integers(0, 1 << 8, (tokens, layer.encoder.channels)).astype(np.uint8)


def tie_layer(outputs: int) -> QuantizedLinear:
    """One input whose product is -1, 0 or +1 on top of biases that lie on ties of the rounding.

    Code 0 stands for 0 (exactly on the tie), code 1 for +1 and code 2 for -1 (one accumulator unit off it).
    Output n is half way between the integers n // 2 - outputs // 4 and the next one, with either sign and parity.
    """
    levels = np.zeros((1, CODES), np.int8)
    levels[0, 1:3] = 1, -1
    whole = np.arange(outputs) - outputs // 2
    return layer_of(
        weight=np.ones((outputs, 1), np.int8),
        scale=np.ones((1, outputs), np.uint16),
        bias=(whole * 256 + 128).astype(np.int32),
        codebooks=levels,
    )


def saturation_layer() -> QuantizedLinear:
    """Eight outputs at and around both ends of the 16-bit range; codes as in `tie_layer`."""
    layer = tie_layer(8)
    ends = [32766, 32767, 32768, 40000, -32768, -32769, -32770, -40000]
    bias = (np.array(ends) * 256 + 128).astype(np.int32)
    return layer_of(layer.weight, layer.scale, bias, layer.codebooks)


def extreme_layer(inputs: int, outputs: int, *, sign: int) -> QuantizedLinear:
    """The largest products and scales, all of one sign, with the bias at the accumulator's limit on that side.

    Code 0 stands for +15 and code 1 for -15.
    """
    tiles = -(-inputs // TILE_CHANNELS)
    levels = np.zeros((tiles, CODES), np.int8)
    levels[:, :2] = LEVEL_MAX, -LEVEL_MAX
    weight = np.full((outputs, inputs), WEIGHT_MIN, np.int8)
    scale = np.full((tiles, outputs), 65535, np.uint16)
    largest = inputs * -WEIGHT_MIN * LEVEL_MAX * 65535
    bias = np.full(outputs, sign * (((1 << 35) - 1 - largest) >> 2), np.int32)
    return layer_of(weight, scale, bias, levels)


CODEBOOKS = {
    "affine": list(range(-8, 8)),
    "descending": list(range(15, -1, -1)),
    "zigzag": [15, -15, 14, -14, 13, -13, 12, -12, 11, -11, 10, -10, 9, -9, 8, -8],
    "duplicates": [3, 3, 3, -7, -7, 0, 0, 0, 0, 15, 15, -15, -15, 1, 1, -1],
    "all zero": [0] * CODES,
    "all alike": [-15] * CODES,
    "powers of two": [0, 1, 2, 4, 8, -1, -2, -4, -8, 0, 0, 0, 0, 0, 0, 0],
    "odd ends": [-15, 15, *[0] * 13, 7],
}
"""Shapes of a codebook that the loader has to get right: any order, repetitions, both ends."""
