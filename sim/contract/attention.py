"""Attention in integers: q.k^T with K stationary, log-domain softmax, P.v with V stationary.

For one window, head h with D channels, query i, key j:

    Sqk = sum over channels of level(q[i]) * level(k[j])                   k per channel around its own zero point
    z   = round_half_even(Sqk * logit_scale[h] / 2**logit_shift), 16 bits           in steps of 2**-9 of log2
        + position bias (16 bits; static per head, or of q with tables of relative rows and columns)
    P   = code of the softmax over keys (sim.contract.softmax), its levels 0..4095
    Spv = sum over keys of level(P[i, j]) * level(v[j])
    out = round_half_even((Spv * scale[c] + bias[c] * 4) / 2**10), 16 bits

What is constant over all keys drops out of the softmax, so zero points of k cost nothing. Rows of P sum to about one,
so a zero point of v is added to the result as a bias.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sim.contract.arithmetic import signed_limits
from sim.contract.checks import expect_array, expect_exponents, expect_integer
from sim.contract.constants import (
    ACCUMULATOR_BITS,
    BIAS_FRACTION_BITS,
    CODES,
    SCALE_FRACTION_BITS,
    WEIGHT_MAX,
    WEIGHT_MIN,
)
from sim.contract.encoder import Encoder
from sim.contract.errors import UserError
from sim.contract.layer import level_codebooks
from sim.contract.softmax import LOG_FRACTION_BITS, score_codes
from sim.contract.wide import Wide, finish_wide

PRODUCTS_PER_CHUNK: Final = 1 << 22
"""Logits handled at once: bounds memory, changes no bit."""

MULTIPLIES_PER_PRODUCT: Final = 1 << 18
"""Largest matrix product that is handed to BLAS where there are thousands of small ones: it spreads larger ones over
threads, and waiting for threads on a busy machine costs a hundred times the arithmetic. Changes no bit."""

STATIONARY_MAX: Final = 119
"""Largest level of k and v: two signed nibbles hold no more, so exporters clamp there."""

MAX_KEYS: Final = 4096

SCORE_LEVEL_MAX: Final = 4095
"""Levels of probabilities have up to three nibbles, one pass of the array each."""

MAX_HEAD_CHANNELS: Final = 128


def _products(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a @ b for stacks of matrices, many rows at a time or few."""
    rows = MULTIPLIES_PER_PRODUCT // (b.shape[-2] * b.shape[-1])
    if not 16 <= rows < a.shape[-2]:
        return np.asarray(a @ b)
    b = np.ascontiguousarray(b)
    result = np.empty((*a.shape[:-1], b.shape[-1]), a.dtype)
    for start in range(0, a.shape[-2], rows):
        np.matmul(a[..., start : start + rows, :], b, out=result[..., start : start + rows, :])
    return result


def static_bias(table: NDArray[np.int16], first: int, queries: int) -> NDArray[np.int16]:
    """Bias (..., queries, keys) of the queries from number `first` on of a window of rows * columns pixels.

    table: (..., rows, columns), by row and column difference, both without sign.
    """
    rows, columns = table.shape[-2:]
    query, key = np.arange(first, first + queries)[:, None], np.arange(rows * columns)
    return table[..., np.abs(query // columns - key // columns), np.abs(query % columns - key % columns)]


def decomposed_bias(by_row: NDArray[np.int16], by_column: NDArray[np.int16], first: int) -> NDArray[np.int32]:
    """Bias int32 (..., queries, keys) of the queries from number `first` on of a window of rows * columns pixels.

    by_row: (..., queries, 2 * rows - 1), by query less key row plus rows - 1; by_column likewise.
    """
    rows, columns = (by_row.shape[-1] + 1) // 2, (by_column.shape[-1] + 1) // 2
    query = np.arange(first, first + by_row.shape[-2])
    row_index = (query // columns)[:, None] - np.arange(rows) + rows - 1
    column_index = (query % columns)[:, None] - np.arange(columns) + columns - 1
    number = np.arange(query.size)[:, None]
    of_row = by_row[..., number, row_index].astype(np.int32)
    total = of_row[..., :, None] + by_column[..., number, column_index][..., None, :]
    return total.reshape(*by_row.shape[:-1], rows * columns)


@dataclass(frozen=True)
class StaticBias:
    """A position bias that does not depend on the picture.

    table: int16 (heads, window**2), logit units, by |row difference| * window + |column difference| (Graham et al.,
    LeViT, section 4.2).
    """

    table: NDArray[np.int16]
    window: int

    @cached_property
    def pairs(self) -> NDArray[np.int16]:
        """(heads, window**2, window**2): bias of every pair of pixels of a window."""
        return static_bias(self.table.reshape(-1, self.window, self.window), 0, self.window * self.window)

    def of(self, q: NDArray[np.float32], first: int) -> NDArray[np.int16]:
        """Bias int16 (heads, queries, keys) of the queries from number `first` on, levels (..., queries, D)."""
        return self.pairs[:, first : first + q.shape[-2]]


@dataclass(frozen=True)
class DecomposedBias:
    """A position bias from the query: q.rel_rows[i - j] + q.rel_columns[i - j] (Li et al., MViTv2, equation 4).

    rel_rows: int8 (heads, 2 * rows - 1, D); rel_columns: int8 (heads, 2 * columns - 1, D), within [-128, 119], by query
    less key position plus side less one. row_scale, column_scale: uint16 (heads,), SCALE_FRACTION_BITS fraction bits,
    to logit units. rows, columns: of the window in pixels.
    """

    rel_rows: NDArray[np.int8]
    rel_columns: NDArray[np.int8]
    row_scale: NDArray[np.uint16]
    column_scale: NDArray[np.uint16]
    rows: int
    columns: int

    def of(self, q: NDArray[np.float32], first: int) -> NDArray[np.int32]:
        """Bias int32 (windows, heads, queries, keys) of levels (windows, heads, queries, D), numbered from `first`."""
        by_row = self._products(q, self.rel_rows, self.row_scale)
        return decomposed_bias(by_row, self._products(q, self.rel_columns, self.column_scale), first)

    @staticmethod
    def _products(q: NDArray[np.float32], table: NDArray[np.int8], scale: NDArray[np.uint16]) -> NDArray[np.int16]:
        # Products of signed bytes over at most 128 channels stay under 2**24: exact in float32.
        sums = (q @ np.swapaxes(table.astype(np.float32), -1, -2)).astype(np.int64)
        return finish_wide(sums * scale.astype(np.int64)[:, None, None], SCALE_FRACTION_BITS)


def stationary_planes(encoder: Encoder) -> int:
    """Signed nibbles of the levels of an operand that is held as weights."""
    return 1 if int(encoder.levels.min()) >= WEIGHT_MIN and int(encoder.levels.max()) <= WEIGHT_MAX else 2


@dataclass(frozen=True)
class Attention:
    """One multi-head attention: H heads of D channels.

    q, k, v: encoders of the H * D channels each (permutation the identity). Levels of k and v are at most
    STATIONARY_MAX, being stationary operands. logit_scale: uint16 (H,), logit_shift fraction bits, from a
    product of levels to steps of 2**-9 of log2. thresholds: int32 (L - 1,), descending, and score_levels: uint16 (L,),
    of P. scale: uint16 (H * D,), bias: int32 (H * D,), BIAS_FRACTION_BITS fraction bits, of the result. position: the
    bias of logits or None. Raises UserError when a shape, dtype or range is off, naming the limit; when a scale has no
    room for its 4-bit passes; and when an accumulator of P.v could overflow with MAX_KEYS keys.
    """

    name: str
    heads: int
    q: Encoder
    k: Encoder
    v: Encoder
    logit_scale: NDArray[np.uint16]
    thresholds: NDArray[np.int32]
    score_levels: NDArray[np.uint16]
    scale: NDArray[np.uint16]
    bias: NDArray[np.int32]
    wide_exponent: int
    position: StaticBias | DecomposedBias | None = None
    logit_shift: int = SCALE_FRACTION_BITS

    def __post_init__(self) -> None:
        expect_exponents(self.name, wide_exponent=self.wide_exponent)
        expect_integer(self.name, "heads", self.heads, 1, 64)
        expect_integer(self.name, "logit_shift", self.logit_shift, 0, SCALE_FRACTION_BITS)
        channels = self.q.channels
        if channels % self.heads or not 1 <= channels // self.heads <= MAX_HEAD_CHANNELS:
            raise UserError(
                f"{self.name}: {channels} channels in {self.heads} heads; a head has 1 to {MAX_HEAD_CHANNELS} channels"
            )
        if (self.k.channels, self.v.channels) != (channels, channels):
            raise UserError(f"{self.name}: q, k and v differ in width; export the model again")
        if not all(np.array_equal(part.permutation, np.arange(channels)) for part in (self.q, self.k, self.v)):
            raise UserError(f"{self.name}: channels of q, k and v must keep their order; export the model again")
        for part, encoder in (("k", self.k), ("v", self.v)):
            if int(encoder.levels.max()) > STATIONARY_MAX:
                raise UserError(f"{self.name}: levels of {part} exceed {STATIONARY_MAX}; export the model again")
        expect_array(self.name, "logit_scale", self.logit_scale, (self.heads,), np.uint16)
        expect_array(
            self.name, "score_levels", self.score_levels, (self.thresholds.size + 1,), np.uint16, limit=SCORE_LEVEL_MAX
        )
        expect_array(self.name, "thresholds", self.thresholds, (self.thresholds.size,), np.int32)
        if self.thresholds.size not in (15, 31, 63, 255) or (np.diff(self.thresholds.astype(np.int64)) > 0).any():
            raise UserError(f"{self.name}: thresholds must be 2**bits - 1 descending integers; export the model again")
        expect_array(self.name, "scale", self.scale, (channels,), np.uint16)
        expect_array(self.name, "bias", self.bias, (channels,), np.int32)
        self._check_room()
        self._check_position(channels // self.heads)

    def _check_room(self) -> None:
        # A high nibble of either operand is a pass of its own, with 16 times the scale; scales have 16 bits.
        streamed = max(len(level_codebooks(row)) for row in self.q.levels)
        for field, scale, planes in (
            ("logit_scale", self.logit_scale, streamed + stationary_planes(self.k)),
            ("scale", self.scale, self.score_planes + stationary_planes(self.v)),
        ):
            room = np.iinfo(np.uint16).max // CODES ** (planes - 2)
            if int(scale.max()) > room:
                raise UserError(f"{self.name}: a {field} of {scale.max()} exceeds {room}; export the model again")
        largest = self.largest_row_sum() * int(np.abs(self.v.levels.astype(np.int64)).max())
        bias = np.abs(self.bias.astype(np.int64)) << (SCALE_FRACTION_BITS - BIAS_FRACTION_BITS)
        worst = int((largest * self.scale.astype(np.int64) + bias).max())
        limit = signed_limits(ACCUMULATOR_BITS)[1]
        if worst > limit:
            raise UserError(
                f"{self.name}: P.v can reach {worst} in the accumulator, over its limit {limit}; "
                "export with a larger wide_exponent"
            )

    def largest_row_sum(self) -> int:
        """A bound on the sum of the levels of a row of P.

        Probabilities of a row sum to one (to within the tables of the softmax, under 1 %), and a code above zero says
        that its probability is at least 2**-((threshold + 1) / 512), so its level is worth at most so many per unit.
        """
        # -log2 of a score ends below 2**15, so larger thresholds are all the same.
        halvings = (np.minimum(self.thresholds, 1 << 15) + 1) / (1 << LOG_FRACTION_BITS)
        per_unit = self.score_levels[1:] * np.exp2(halvings)
        lowest = MAX_KEYS * int(self.score_levels[0])
        return lowest + min(MAX_KEYS * int(self.score_levels.max()), int(per_unit.max() * 1.01) + 1)

    def _check_position(self, width: int) -> None:
        bias = self.position
        if isinstance(bias, StaticBias):
            expect_integer(self.name, "window", bias.window, 1, 64)
            expect_array(self.name, "bias table", bias.table, (self.heads, bias.window**2), np.int16)
        elif bias is not None:
            expect_integer(self.name, "window rows", bias.rows, 1, 64)
            expect_integer(self.name, "window columns", bias.columns, 1, 64)
            rows, columns = (self.heads, 2 * bias.rows - 1, width), (self.heads, 2 * bias.columns - 1, width)
            expect_array(self.name, "rel_rows", bias.rel_rows, rows, np.int8)
            expect_array(self.name, "rel_columns", bias.rel_columns, columns, np.int8)
            expect_array(self.name, "row_scale", bias.row_scale, (self.heads,), np.uint16)
            expect_array(self.name, "column_scale", bias.column_scale, (self.heads,), np.uint16)

    @property
    def score_bits(self) -> int:
        """Bits of a code of P."""
        return int(self.score_levels.size).bit_length() - 1

    @property
    def score_planes(self) -> int:
        """Nibbles of a level of P."""
        return max(1, -(-int(self.score_levels.max()).bit_length() // 4))

    def score_nibbles(self) -> NDArray[np.uint8]:
        """Nibbles uint8 (L, score_planes) of the levels of P, the high one first: what is streamed for a code."""
        places = 4 * np.arange(self.score_planes - 1, -1, -1)
        return (self.score_levels[:, None] >> places & (CODES - 1)).astype(np.uint8)

    def array_logit_scale(self) -> NDArray[np.int64]:
        """Scale int64 (H,) of the lowest pass of q.k with the array's SCALE_FRACTION_BITS fraction bits.

        A pass so many nibbles above it has 16 times as much for each; where logit_shift is smaller than the array's
        fraction bits the highest may exceed the array's 16 bits, which the caller has to refuse.
        """
        return self.logit_scale.astype(np.int64) << (SCALE_FRACTION_BITS - self.logit_shift)

    def _check_tokens(self, queries: int, keys: int) -> None:
        if keys > MAX_KEYS:
            raise ValueError(f"{self.name}: {keys} keys, at most {MAX_KEYS} are possible")
        if self.position is None:
            return
        bias = self.position
        pixels = bias.window**2 if isinstance(bias, StaticBias) else bias.rows * bias.columns
        if (queries, keys) != (pixels, pixels):
            raise ValueError(f"{self.name}: {queries} queries and {keys} keys, the position bias is for {pixels}")

    def _split(self, encoder: Encoder, x: Wide) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Codes and levels (windows, heads, tokens, D) of wide values (windows, tokens, H * D)."""
        codes = encoder.encode(x)
        windows, tokens, channels = codes.shape
        shape = (windows, tokens, self.heads, channels // self.heads)
        levels = encoder.level(codes).astype(np.float32).reshape(shape).transpose(0, 2, 1, 3)
        return codes, np.ascontiguousarray(levels)

    def logits(self, q: NDArray[np.float32], k: NDArray[np.float32], first: int) -> NDArray[np.int32]:
        """Logits int32 (windows, heads, queries, keys), bias included, of levels (windows, heads, tokens, D).

        `first`: number of the first of the queries within its window.
        """
        # 128 channels of products up to 128 * 128 stay under 2**24: exact in float32.
        sums = _products(q, np.swapaxes(k, -1, -2)).astype(np.int64)
        sums *= self.logit_scale.astype(np.int64)[:, None, None]
        total = finish_wide(sums, self.logit_shift).astype(np.int32)
        if self.position is not None:
            total += self.position.of(q, first)
        return total

    def mix(self, scores: NDArray[np.uint8], v: NDArray[np.float32]) -> NDArray[np.int16]:
        """Wide results (windows, queries, H * D) of codes (windows, heads, queries, keys) and levels of v."""
        # float32 is exact as long as no sum reaches 2**24.
        dtype = np.float32 if int(self.score_levels.max()) * 128 * v.shape[-2] < 1 << 24 else np.float64
        sums = _products(self.score_levels.astype(dtype)[scores], v.astype(dtype)).astype(np.int64)
        windows, heads, queries, width = sums.shape
        sums = sums.transpose(0, 2, 1, 3).reshape(windows, queries, heads * width)
        sums *= self.scale
        sums += self.bias.astype(np.int64) << (SCALE_FRACTION_BITS - BIAS_FRACTION_BITS)
        return finish_wide(sums, SCALE_FRACTION_BITS)

    def run(self, q: Wide, k: Wide, v: Wide) -> tuple[dict[str, NDArray[np.uint8]], Wide]:
        """Codes of q, k and v (windows, tokens, H * D), and the wide result (windows, queries, H * D).

        Raises ValueError for more than MAX_KEYS keys, or other numbers of tokens than the position bias is for.
        """
        self._check_tokens(q.values.shape[1], k.values.shape[1])
        q_codes, q_levels = self._split(self.q, q)
        k_codes, k_levels = self._split(self.k, k)
        v_codes, v_levels = self._split(self.v, v)
        windows, _, queries, _ = q_levels.shape
        keys = k_levels.shape[-2]
        result = np.empty(q.values.shape, np.int16)
        rows = min(queries, max(1, PRODUCTS_PER_CHUNK // (self.heads * keys)))
        batch = max(1, PRODUCTS_PER_CHUNK // (self.heads * rows * keys))
        for start in range(0, windows, batch):
            chunk = slice(start, start + batch)
            for first in range(0, queries, rows):
                part = slice(first, first + rows)
                logits = self.logits(q_levels[chunk, :, part], k_levels[chunk], first)
                scores = score_codes(logits, self.thresholds)
                result[chunk, part] = self.mix(scores, v_levels[chunk])
        return {"q": q_codes, "k": k_codes, "v": v_codes}, Wide(result, self.wide_exponent)
