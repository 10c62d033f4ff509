"""The quantized dense layer as the model sees it: wide in, wide out; and as the array sees it: 4-bit passes.

For a token with levels a[p], K tiles t of TILE_CHANNELS positions and output n:

    S[t]  = sum over p in t of weight[n, p] * a[p]
    acc   = bias[n] * 2**(SCALE_FRACTION_BITS - BIAS_FRACTION_BITS) + sum over t of scale[t, n] * S[t]
    wide  = saturate(round_half_even(acc / 2**SCALE_FRACTION_BITS))

Levels and weights may have up to 8 bits. The array has 4-bit codes, levels within [-15, 15] and 4-bit weights: it
takes such a tile in passes, one for each pair of a level nibble and a weight nibble. `scale` is that of the highest
pass, in all of its 16 bits; each nibble below it takes a sixteenth, rounded half to even. So passes cost a scale no
precision where it counts, and the array needs nothing but one scale per pass.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sim.contract.arithmetic import round_half_even_shift
from sim.contract.checks import expect_array, expect_exponents, expect_integer
from sim.contract.codebook import high_plane_codebook, low_plane_codebook
from sim.contract.constants import (
    BIAS_FRACTION_BITS,
    CODES,
    LEVEL_MAX,
    SCALE_FRACTION_BITS,
    TILE_CHANNELS,
    WEIGHT_MAX,
    WEIGHT_MIN,
)
from sim.contract.encoder import Encoder
from sim.contract.errors import UserError
from sim.contract.linear import QuantizedLinear, finish
from sim.contract.wide import Wide

TOKENS_PER_CHUNK: Final = 8192
"""Tokens handled at once: bounds memory, changes no bit."""

BYTE_WEIGHT_MIN: Final = -128
BYTE_WEIGHT_MAX: Final = CODES * WEIGHT_MAX + WEIGHT_MAX
"""Range of a weight of two nibbles 16 * high + low, both within [-8, 7], that fits a signed byte: [-128, 119]."""


def weight_limits(bits: int) -> tuple[int, int]:
    """Smallest and largest integer weight of `bits` bits (4 to 8); two signed nibbles end at 119."""
    return -(1 << (bits - 1)), min((1 << (bits - 1)) - 1, BYTE_WEIGHT_MAX)


def weight_nibbles(weight: NDArray[np.int8], planes: int) -> list[NDArray[np.int8]]:
    """Weights as signed nibbles, the high one first: one array for one plane, two for two."""
    if planes == 1:
        return [weight]
    high = (weight.astype(np.int16) - WEIGHT_MIN) >> 4
    return [high.astype(np.int8), (weight - CODES * high).astype(np.int8)]


def level_codebooks(levels: NDArray[np.int8]) -> list[NDArray[np.int8]]:
    """Array codebooks int8 (16,) of one level set, the high plane first: what each pass looks up."""
    if levels.size != CODES:
        return [high_plane_codebook(), low_plane_codebook()]
    if int(np.abs(levels.astype(np.int64)).max()) <= LEVEL_MAX:
        return [levels]
    return [(levels >> 4).astype(np.int8), (levels & 15).astype(np.int8)]


def pass_scale(scale: NDArray[np.uint16], nibbles_below: int) -> NDArray[np.uint16]:
    """Scale of a pass so many nibbles below the highest, whose scale is given: rounded half to even."""
    return round_half_even_shift(scale.astype(np.int64), 4 * nibbles_below).astype(np.uint16)


@dataclass(frozen=True)
class QuantizedLayer:
    """One dense layer with N outputs, C input channels and T K tiles.

    encoder: of the input. weight: int8 (N, C), columns in the encoder's order, within [-8, 7] for weight_planes 1,
    within [-128, 119] for 2. scale: uint16 (T, N), SCALE_FRACTION_BITS fraction bits, of the highest pass. bias: int32
    (N,), BIAS_FRACTION_BITS fraction bits. wide_exponent: of the result.

    Raises UserError when a shape, dtype or range is off, or an accumulator could overflow.
    """

    name: str
    encoder: Encoder
    weight: NDArray[np.int8]
    scale: NDArray[np.uint16]
    bias: NDArray[np.int32]
    wide_exponent: int
    weight_planes: int = 1

    def __post_init__(self) -> None:
        if self.weight.ndim != 2 or 0 in self.weight.shape:
            raise UserError(f"layer {self.name}: weight must be a matrix (outputs, inputs), found {self.weight.shape}")
        outputs, tiles = self.weight.shape[0], self.encoder.tiles
        expect_array(f"layer {self.name}", "weight", self.weight, (outputs, self.encoder.channels), np.int8)
        expect_array(f"layer {self.name}", "scale", self.scale, (tiles, outputs), np.uint16)
        expect_array(f"layer {self.name}", "bias", self.bias, (outputs,), np.int32)
        expect_exponents(f"layer {self.name}", wide_exponent=self.wide_exponent)
        expect_integer(f"layer {self.name}", "weight_planes", self.weight_planes, 1, 2)
        low, high = (WEIGHT_MIN, WEIGHT_MAX) if self.weight_planes == 1 else (BYTE_WEIGHT_MIN, BYTE_WEIGHT_MAX)
        if int(self.weight.min()) < low or int(self.weight.max()) > high:
            raise UserError(f"layer {self.name}: weights must lie in [{low}, {high}]")
        # Making the array's form proves that no accumulator can overflow, under `python -O` too.
        _ = self.array_form

    @property
    def outputs(self) -> int:
        """N."""
        return int(self.weight.shape[0])

    @property
    def level_planes(self) -> int:
        """Passes that a K tile needs for its levels: as many as the tile that needs most."""
        tiles = range(self.encoder.levels.shape[0])
        return max(len(level_codebooks(self.encoder.tile_levels(tile))) for tile in tiles)

    @property
    def passes(self) -> int:
        """4-bit passes of the array per K tile."""
        return self.level_planes * self.weight_planes

    @cached_property
    def array_form(self) -> QuantizedLinear:
        """The same layer as 4-bit K tiles: per tile, weight nibbles from high to low, in them level nibbles."""
        weights: list[NDArray[np.int8]] = []
        scales: list[NDArray[np.uint16]] = []
        codebooks: list[NDArray[np.int8]] = []
        nibbles = weight_nibbles(self.weight, self.weight_planes)
        for tile, positions in enumerate(self.encoder.tile_slices()):
            books = level_codebooks(self.encoder.tile_levels(tile))
            # A level set that fits one nibble beside others that need two: its high plane is zero.
            books = [np.zeros(CODES, np.int8)] * (self.level_planes - len(books)) + books
            for i, nibble in enumerate(nibbles):
                for j, book in enumerate(books):
                    weights.append(nibble[:, positions])
                    codebooks.append(book)
                    scales.append(pass_scale(self.scale[tile], i + j))
        return QuantizedLinear(
            name=self.name,
            weight=np.concatenate(weights, axis=1),
            scale=np.stack(scales),
            bias=self.bias,
            codebooks=np.stack(codebooks),
            wide_exponent=self.wide_exponent,
            passes=self.passes,
        )

    def array_codes(self, codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """4-bit codes (..., K) in the order of `array_form` for codes (..., C) of the encoder."""
        parts: list[np.ndarray] = []
        for positions in self.encoder.tile_slices():
            code = codes[..., positions]
            high, low = (code >> 4, code & 15) if self.encoder.code_planes == 2 else (code, code)
            parts += ([high, low] if self.level_planes == 2 else [low]) * self.weight_planes
        return np.concatenate(parts, axis=-1)

    @cached_property
    def _scaled_weights(self) -> list[NDArray[np.float64]]:
        """Per level plane, the high one first, the sum over weight nibbles of nibble times pass scale as (C, N)."""
        nibbles = weight_nibbles(self.weight, self.weight_planes)
        scaled = [np.zeros((self.encoder.channels, self.outputs), np.float64) for _ in range(self.level_planes)]
        for tile, positions in enumerate(self.encoder.tile_slices()):
            for plane, weights in enumerate(scaled):
                for below, nibble in enumerate(nibbles):
                    scale = pass_scale(self.scale[tile], plane + below).astype(np.int64)
                    weights[positions] += nibble[:, positions].T.astype(np.int64) * scale
        return scaled

    @cached_property
    def _split(self) -> NDArray[np.float64]:
        """1 for positions (C,) whose levels have a high nibble, 0 for those whose levels fit the low one."""
        split = np.zeros(self.encoder.channels)
        for tile, positions in enumerate(self.encoder.tile_slices()):
            split[positions] = len(level_codebooks(self.encoder.tile_levels(tile))) - 1
        return split

    def products(self, level: NDArray[np.float64]) -> NDArray[np.float64]:
        """Accumulators (tokens, N) without bias for levels (tokens, C) in permuted order.

        Of whole levels the result is whole and exact: every partial sum is an integer within the accumulator's 36 bits
        (a pass is a part of it), far under the 2**53 up to which float64 is exact.
        """
        if self.level_planes == 1:
            return level @ self._scaled_weights[0]
        high = np.floor(level / CODES) * self._split
        return high @ self._scaled_weights[0] + (level - CODES * high) @ self._scaled_weights[1]

    def wide(self, codes: NDArray[np.uint8]) -> NDArray[np.int16]:
        """Wide results int16 (..., N) of codes uint8 (..., C)."""
        tokens = codes.reshape(-1, codes.shape[-1])
        result = np.empty((tokens.shape[0], self.outputs), np.int16)
        bias = self.bias.astype(np.int64) << (SCALE_FRACTION_BITS - BIAS_FRACTION_BITS)
        for start in range(0, tokens.shape[0], TOKENS_PER_CHUNK):
            chunk = slice(start, start + TOKENS_PER_CHUNK)
            product = self.products(self.encoder.level(tokens[chunk]).astype(np.float64))
            result[chunk] = finish(product.astype(np.int64) + bias)
        return result.reshape(*codes.shape[:-1], self.outputs)

    def run(self, x: Wide) -> tuple[NDArray[np.uint8], Wide]:
        """Codes and wide results of wide inputs (..., C)."""
        codes = self.encoder.encode(x)
        return codes, Wide(self.wide(codes), self.wide_exponent)

    @property
    def macs_per_token(self) -> int:
        """4-bit multiply-accumulates of the array per token, passes included."""
        return self.outputs * self.encoder.channels * self.passes


def tile_count(channels: int) -> int:
    """K tiles of `channels` input channels."""
    return -(-channels // TILE_CHANNELS)
