"""The quantized linear layer: what the matmul array and the group-rescale pipeline compute.

For a token with codes a[k], K tiles t of TILE_CHANNELS inputs and output n:

    S[t]  = sum over k in t of weight[n, k] * level_t(a[k])
    acc   = bias[n] * 2**(SCALE_FRACTION_BITS - BIAS_FRACTION_BITS) + sum over t of scale[t, n] * S[t]
    wide  = saturate(round_half_even(acc / 2**SCALE_FRACTION_BITS))        16-bit
    real  = wide * 2**wide_exponent

Nothing is rounded before the end, so the order of the tiles and their division into passes of a smaller
array do not change a bit. Wider levels or weights are further K tiles of the same channels, one for each pair of
nibbles (`sim.contract.layer`); for the array these are ordinary K tiles: precision is paid for in passes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.contract.arithmetic import round_half_even_shift, saturate, signed_limits
from sim.contract.checks import expect_array
from sim.contract.codebook import check_levels
from sim.contract.constants import (
    ACCUMULATOR_BITS,
    BIAS_FRACTION_BITS,
    CODES,
    SCALE_FRACTION_BITS,
    TILE_CHANNELS,
    WEIGHT_MAX,
    WEIGHT_MIN,
    WIDE_BITS,
)
from sim.contract.errors import UserError

TOKENS_PER_CHUNK = 8192
"""Tokens that `accumulate` handles at once: bounds its memory, changes no bit."""


@dataclass(frozen=True)
class QuantizedLinear:
    """One quantized linear layer as the array takes it: N outputs, K inputs of 4 bits and T K tiles.

    A layer whose levels and weights fit 4 bits has one pass and T = ceil(K / 64). One that needs more passes has every
    K tile `passes` times in a row, one for each pair of nibbles (`sim.contract.layer`).

    name: state-dict name of the module. weight: int8 (N, K) within [-8, 7]. scale: uint16 (T, N),
    SCALE_FRACTION_BITS fraction bits. bias: int32 (N,), BIAS_FRACTION_BITS fraction bits, zero points and channel
    offsets folded in. codebooks: int8 (T, 16). wide_exponent: the real value of a wide result is
    `wide * 2**wide_exponent`. passes: 1, 2 or 4.

    Raises UserError when a shape, dtype or range is off, or the worst case of an accumulator does not fit
    ACCUMULATOR_BITS.
    """

    name: str
    weight: NDArray[np.int8]
    scale: NDArray[np.uint16]
    bias: NDArray[np.int32]
    codebooks: NDArray[np.int8]
    wide_exponent: int
    passes: int = 1

    def __post_init__(self) -> None:
        if self.weight.ndim != 2 or 0 in self.weight.shape:
            raise UserError(f"layer {self.name}: weight must be a matrix (outputs, inputs), found {self.weight.shape}")
        if self.passes not in (1, 2, 4) or self.in_features % self.passes:
            raise UserError(f"layer {self.name}: {self.in_features} inputs do not make {self.passes} passes")
        outputs, inputs, tiles = self.out_features, self.in_features, self.tiles
        expect_array(f"layer {self.name}", "weight", self.weight, (outputs, inputs), np.int8)
        expect_array(f"layer {self.name}", "scale", self.scale, (tiles, outputs), np.uint16)
        expect_array(f"layer {self.name}", "bias", self.bias, (outputs,), np.int32)
        expect_array(f"layer {self.name}", "codebooks", self.codebooks, (tiles, CODES), np.int8)
        for tile, levels in enumerate(self.codebooks):
            check_levels(levels, f"layer {self.name}, K tile {tile}")
        if self.weight.min() < WEIGHT_MIN or self.weight.max() > WEIGHT_MAX:
            raise UserError(f"layer {self.name}: weights must lie in [{WEIGHT_MIN}, {WEIGHT_MAX}]")
        if not -64 <= self.wide_exponent <= 64:
            raise UserError(f"layer {self.name}: wide_exponent {self.wide_exponent} is outside [-64, 64]")
        limit = signed_limits(ACCUMULATOR_BITS)[1]
        worst = self.worst_accumulator()
        if int(worst.max()) > limit:
            raise UserError(
                f"layer {self.name}: output {int(worst.argmax())} can reach {int(worst.max())} in the accumulator, "
                f"over the {ACCUMULATOR_BITS}-bit limit {limit}; export with a larger wide_exponent"
            )

    @property
    def channels(self) -> int:
        """C, the number of input channels: K over passes."""
        return self.in_features // self.passes

    @property
    def in_features(self) -> int:
        """K, the number of 4-bit inputs: channels times passes."""
        return int(self.weight.shape[1])

    @property
    def out_features(self) -> int:
        """N, the number of outputs."""
        return int(self.weight.shape[0])

    @property
    def tiles(self) -> int:
        """T, the number of K tiles."""
        return -(-self.channels // TILE_CHANNELS) * self.passes

    def tile_slices(self) -> Iterator[tuple[int, slice]]:
        """(tile, slice of inputs) for every K tile; the last one (of each pass) may be shorter."""
        start = 0
        for tile in range(self.tiles):
            width = min(TILE_CHANNELS, self.channels - tile // self.passes * TILE_CHANNELS)
            yield tile, slice(start, start + width)
            start += width

    def aligned_bias(self) -> NDArray[np.int64]:
        """Bias in accumulator units: int64 (N,)."""
        return self.bias.astype(np.int64) << (SCALE_FRACTION_BITS - BIAS_FRACTION_BITS)

    def worst_accumulator(self) -> NDArray[np.int64]:
        """Per output, a bound on |accumulator| over every possible input and every prefix of the sum: int64 (N,).

        Codes that the encoder never writes count too: hardware must not overflow whatever it is sent.
        """
        worst = np.abs(self.aligned_bias())
        weight = self.weight.astype(np.int64)
        for tile, positions in self.tile_slices():
            levels = self.codebooks[tile].astype(np.int64)
            products = weight[:, positions, None] * np.array([levels.min(), levels.max()])
            largest = np.maximum(products.max(axis=2).sum(axis=1), -products.min(axis=2).sum(axis=1))
            worst += self.scale[tile].astype(np.int64) * np.maximum(largest, 0)
        return worst

    def decode(self, wide: NDArray[np.int16]) -> NDArray[np.float32]:
        """Real values float32 of wide results."""
        return np.ldexp(wide.astype(np.float32), self.wide_exponent).astype(np.float32, copy=False)


def accumulate(codes: NDArray[np.uint8], layer: QuantizedLinear) -> NDArray[np.int64]:
    """Accumulators int64 (tokens, N) before rounding, for codes uint8 (tokens, K) in permuted order.

    Every partial sum is an integer below 2**ACCUMULATOR_BITS, far under the 2**53 up to which float64 is
    exact, so one float64 matrix product with the scales multiplied into the weights is the integer result.
    Raises ValueError when the codes are not uint8 (tokens, K) or exceed 15.
    """
    if codes.ndim != 2 or codes.shape[1] != layer.in_features or codes.dtype != np.uint8:
        raise ValueError(f"layer {layer.name}: codes must be uint8 (tokens, {layer.in_features})")
    if codes.size and codes.max() >= CODES:
        raise ValueError(f"layer {layer.name}: code {codes.max()} is not a 4-bit code")
    scaled_weight = np.empty((layer.in_features, layer.out_features), np.float64)
    for tile, positions in layer.tile_slices():
        scaled_weight[positions] = layer.weight[:, positions].T.astype(np.int64) * layer.scale[tile]
    accumulator = np.empty((codes.shape[0], layer.out_features), np.int64)
    for start in range(0, codes.shape[0], TOKENS_PER_CHUNK):
        chunk = codes[start : start + TOKENS_PER_CHUNK]
        levels = np.empty(chunk.shape, np.float64)
        for tile, positions in layer.tile_slices():
            levels[:, positions] = layer.codebooks[tile].astype(np.float64)[chunk[:, positions]]
        accumulator[start : start + TOKENS_PER_CHUNK] = levels @ scaled_weight
    accumulator += layer.aligned_bias()
    return accumulator


def add_pass(
    accumulators: NDArray[np.int64] | None,
    sums: NDArray[np.int64],
    scale: NDArray[np.integer],
    bias: NDArray[np.integer],
) -> NDArray[np.int64]:
    """Accumulators int64 (tokens, columns) after one more pass with `sums`; `accumulators` None starts from the bias.

    They wrap at ACCUMULATOR_BITS as the hardware's do; exported layers never get there.
    """
    total = sums * np.asarray(scale, np.int64)
    total += (
        np.asarray(bias, np.int64) << (SCALE_FRACTION_BITS - BIAS_FRACTION_BITS)
        if accumulators is None
        else accumulators
    )
    low, high = signed_limits(ACCUMULATOR_BITS)
    if total.size and not low <= total.min() <= total.max() <= high:
        total = (total - low) % (high - low + 1) + low
    return total


def finish(accumulator: NDArray[np.int64]) -> NDArray[np.int16]:
    """Accumulators to wide results: round half to even, saturate to 16 bits."""
    return saturate(round_half_even_shift(accumulator, SCALE_FRACTION_BITS), WIDE_BITS).astype(np.int16)


def linear(codes: NDArray[np.uint8], layer: QuantizedLinear) -> NDArray[np.int16]:
    """Wide results int16 (tokens, N) of codes uint8 (tokens, K) in permuted order."""
    return finish(accumulate(codes, layer))
