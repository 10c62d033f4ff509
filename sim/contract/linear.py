"""The quantized linear layer: what the matmul array and the group-rescale pipeline compute.

For a token with codes a[k], K tiles t of TILE_CHANNELS inputs and output n:

    S[t]  = sum over k in t of weight[n, k] * level_t(a[k])
    acc   = bias[n] * 2**(SCALE_FRACTION_BITS - BIAS_FRACTION_BITS) + sum over t of scale[t, n] * S[t]
    wide  = saturate(round_half_even(acc / 2**SCALE_FRACTION_BITS))        16-bit
    real  = wide * 2**wide_exponent

Nothing is rounded before the end, so the order of the tiles and their division into passes of a smaller
array do not change a bit.

An 8-bit activation is two 4-bit codes, its nibbles. A layer with two planes has every K tile twice, once for
the high nibbles and right after it for the low ones: the same channels, weights and offsets, another codebook,
and a scale sixteen times smaller. For the array these are ordinary K tiles; precision is paid for in passes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.contract.arithmetic import round_half_even_shift, saturate, signed_limits
from sim.contract.codebook import byte_planes, check_levels, high_plane_codebook, low_plane_codebook, nearest_code
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


def _expect(name: str, field: str, array: np.ndarray, shape: tuple[int, ...], dtype: type) -> None:
    if array.shape != shape or array.dtype != np.dtype(dtype):
        raise UserError(
            f"layer {name}: {field} must be {np.dtype(dtype)} of shape {shape}, found {array.dtype} of shape "
            f"{array.shape}; export the model again"
        )


@dataclass(frozen=True)
class QuantizedLinear:
    """One quantized linear layer with N outputs, C input channels, K = C * planes inputs and T K tiles.

    With one plane T = ceil(C / 64). With two, tiles 2i and 2i + 1 are the high and the low nibbles of channels
    64i.. (see `expand_planes`), and the input is 8 bits wide.

    name: state-dict name of the module. weight: int8 (N, K) within [-8, 7], columns in permuted order.
    scale: uint16 (T, N), SCALE_FRACTION_BITS fraction bits. bias: int32 (N,), BIAS_FRACTION_BITS fraction
    bits, zero points and channel offsets folded in. codebooks: int8 (T, 16). wide_exponent: the real value
    of a wide result is `wide * 2**wide_exponent`. permutation: uint16 (K,), position p reads channel
    permutation[p]. activation_scale: float32 (T,), real value of one level. activation_offset: float32
    (K,), in levels and permuted order: position p with code a stands for
    activation_scale[t] * (codebooks[t, a] + activation_offset[p]). In a pair of planes the offset belongs to the
    low plane, in its levels, and is zero in the high one. planes: 1 or 2.

    Raises UserError when a shape, dtype or range is off, a scale is not finite and positive, or the worst
    case of an accumulator does not fit ACCUMULATOR_BITS.
    """

    name: str
    weight: NDArray[np.int8]
    scale: NDArray[np.uint16]
    bias: NDArray[np.int32]
    codebooks: NDArray[np.int8]
    wide_exponent: int
    permutation: NDArray[np.uint16]
    activation_scale: NDArray[np.float32]
    activation_offset: NDArray[np.float32]
    planes: int = 1

    def __post_init__(self) -> None:
        if self.weight.ndim != 2 or 0 in self.weight.shape:
            raise UserError(f"layer {self.name}: weight must be a matrix (outputs, inputs), found {self.weight.shape}")
        if self.planes not in (1, 2) or self.in_features % self.planes:
            raise UserError(f"layer {self.name}: {self.in_features} inputs do not make {self.planes} planes (1 or 2)")
        outputs, inputs, tiles = self.out_features, self.in_features, self.tiles
        _expect(self.name, "weight", self.weight, (outputs, inputs), np.int8)
        _expect(self.name, "scale", self.scale, (tiles, outputs), np.uint16)
        _expect(self.name, "bias", self.bias, (outputs,), np.int32)
        _expect(self.name, "codebooks", self.codebooks, (tiles, CODES), np.int8)
        _expect(self.name, "permutation", self.permutation, (inputs,), np.uint16)
        _expect(self.name, "activation_scale", self.activation_scale, (tiles,), np.float32)
        _expect(self.name, "activation_offset", self.activation_offset, (inputs,), np.float32)
        for tile, levels in enumerate(self.codebooks):
            check_levels(levels, f"layer {self.name}, K tile {tile}")
        if self.weight.min() < WEIGHT_MIN or self.weight.max() > WEIGHT_MAX:
            raise UserError(f"layer {self.name}: weights must lie in [{WEIGHT_MIN}, {WEIGHT_MAX}]")
        once = np.repeat(np.arange(self.channels), self.planes)
        if not np.array_equal(np.sort(self.permutation), once):
            raise UserError(f"layer {self.name}: permutation does not name each of the {self.channels} channels once")
        if self.planes == 2:
            self._check_planes()
        if not (np.isfinite(self.activation_scale).all() and (self.activation_scale > 0).all()):
            raise UserError(f"layer {self.name}: an activation scale is not a finite number above zero")
        if not np.isfinite(self.activation_offset).all():
            raise UserError(f"layer {self.name}: an activation offset is not finite")
        if not -64 <= self.wide_exponent <= 64:
            raise UserError(f"layer {self.name}: wide_exponent {self.wide_exponent} is outside [-64, 64]")
        limit = signed_limits(ACCUMULATOR_BITS)[1]
        worst = self.worst_accumulator()
        if int(worst.max()) > limit:
            raise UserError(
                f"layer {self.name}: output {int(worst.argmax())} can reach {int(worst.max())} in the accumulator, "
                f"over the {ACCUMULATOR_BITS}-bit limit {limit}; export with a larger wide_exponent"
            )

    def _check_planes(self) -> None:
        """Raise UserError unless every pair of tiles is what `expand_planes` makes of its low plane."""
        slices = dict(self.tile_slices())
        for high in range(0, self.tiles, 2):
            low, at, below = high + 1, slices[high], slices[high + 1]
            same = np.array_equal(self.weight[:, at], self.weight[:, below])
            same &= np.array_equal(self.permutation[at], self.permutation[below])
            same &= np.array_equal(self.scale[high].astype(np.int64), self.scale[low].astype(np.int64) * CODES)
            same &= bool(self.activation_scale[high] == self.activation_scale[low] * CODES)
            same &= not self.activation_offset[at].any()
            same &= np.array_equal(self.codebooks[high], high_plane_codebook())
            same &= np.array_equal(self.codebooks[low], low_plane_codebook())
            if not same:
                raise UserError(f"layer {self.name}: K tiles {high} and {low} are not two planes of the same channels")

    @property
    def channels(self) -> int:
        """C, the number of input channels."""
        return self.in_features // self.planes

    @property
    def in_features(self) -> int:
        """K, the number of 4-bit inputs: channels times planes."""
        return int(self.weight.shape[1])

    @property
    def out_features(self) -> int:
        """N, the number of outputs."""
        return int(self.weight.shape[0])

    @property
    def tiles(self) -> int:
        """T, the number of K tiles."""
        return -(-self.channels // TILE_CHANNELS) * self.planes

    def tile_slices(self) -> Iterator[tuple[int, slice]]:
        """(tile, slice of permuted positions) for every K tile; the last one (of each plane) may be shorter."""
        start = 0
        for tile in range(self.tiles):
            width = min(TILE_CHANNELS, self.channels - tile // self.planes * TILE_CHANNELS)
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

    def encode(self, x: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Codes uint8 (tokens, K) in permuted order for real inputs float32 (tokens, C) in channel order."""
        if x.ndim != 2 or x.shape[1] != self.channels:
            raise ValueError(f"layer {self.name}: input must be (tokens, {self.channels}), found {x.shape}")
        codes = np.empty((x.shape[0], self.in_features), np.uint8)
        slices = list(self.tile_slices())
        for tile, positions in slices[self.planes - 1 :: self.planes]:
            level = x[:, self.permutation[positions]] / self.activation_scale[tile] - self.activation_offset[positions]
            level = level.astype(np.float32, copy=False)
            if self.planes == 2:
                codes[:, slices[tile - 1][1]], codes[:, positions] = byte_planes(level)
            else:
                codes[:, positions] = nearest_code(level, self.codebooks[tile])
        return codes

    def decode(self, wide: NDArray[np.int16]) -> NDArray[np.float32]:
        """Real values float32 of wide results."""
        return np.ldexp(wide.astype(np.float32), self.wide_exponent).astype(np.float32, copy=False)


def expand_planes(
    name: str,
    *,
    weight: NDArray[np.int8],
    scale: NDArray[np.uint16],
    bias: NDArray[np.int32],
    wide_exponent: int,
    permutation: NDArray[np.uint16],
    activation_scale: NDArray[np.float32],
    activation_offset: NDArray[np.float32],
) -> QuantizedLinear:
    """A layer with two planes from what belongs to its low plane, which tells the high one.

    weight: int8 (N, C), permuted. scale: uint16 (ceil(C / 64), N), below 2**12. activation_scale: float32
    (ceil(C / 64),), real value of one of the 256 levels -128..127. activation_offset: float32 (C,), in levels.
    Raises UserError when a scale has no room for the factor 16, and as QuantizedLinear does.
    """
    if scale.size and int(scale.max()) > np.iinfo(np.uint16).max // CODES:
        raise UserError(f"layer {name}: a scale of {scale.max()} leaves no room for a second plane; export again")
    starts = range(0, weight.shape[1], TILE_CHANNELS)
    order = np.concatenate([np.tile(np.arange(weight.shape[1])[start : start + TILE_CHANNELS], 2) for start in starts])
    low = np.concatenate(
        [np.repeat([False, True], len(np.arange(weight.shape[1])[start : start + TILE_CHANNELS])) for start in starts]
    )
    planes = np.array([CODES, 1])
    return QuantizedLinear(
        name=name,
        weight=weight[:, order],
        scale=(scale[:, None] * planes[:, None]).reshape(-1, scale.shape[1]).astype(np.uint16),
        bias=bias,
        codebooks=np.tile(np.stack([high_plane_codebook(), low_plane_codebook()]), (len(starts), 1)),
        wide_exponent=wide_exponent,
        permutation=permutation[order],
        activation_scale=(activation_scale[:, None] * planes).reshape(-1).astype(np.float32),
        activation_offset=np.where(low, activation_offset[order], 0).astype(np.float32),
        planes=2,
    )


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


def finish(accumulator: NDArray[np.int64]) -> NDArray[np.int16]:
    """Accumulators to wide results: round half to even, saturate to 16 bits."""
    return saturate(round_half_even_shift(accumulator, SCALE_FRACTION_BITS), WIDE_BITS).astype(np.int16)


def linear(codes: NDArray[np.uint8], layer: QuantizedLinear) -> NDArray[np.int16]:
    """Wide results int16 (tokens, N) of codes uint8 (tokens, K) in permuted order."""
    return finish(accumulate(codes, layer))
