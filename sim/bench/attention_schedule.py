"""One attention as commands of the attention unit, with every operand that they consume.

A set is a head of a window with a block of its queries. Order of the commands for sets 0, 1, 2, ...: SCORES 0,
SCORES 1, MIX 0, SCORES 2, MIX 1, ..., so that the softmax of a set runs beside the MIX of the one before.

Nibbles. K and V are stationary, in signed nibbles; the high one is a plane of its own. Levels of q are shifted up by
Q_SHIFT and streamed as nibbles 0..15, all on the tables of one codebook; sixteen levels that fit the array directly are
streamed as codes, with their own codebook. Where two nibbles of a head's channels fit the rows, they stand side by
side: one LOAD holds both nibbles of k, and three RUNs stream the pairs of equal weight, instead of two LOADs and four
RUNs. With `split` the shift is in the codebook of the high nibble instead, and every RUN has its LOAD: what a program
does that does not know the keys beforehand.

The codes of q of a set are a block of streamed codes: query by query, in each group by group and run by run.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hdl.array.geometry import ArrayGeometry
from hdl.attention.attention import Attention as AttentionUnit
from hdl.attention.attention import command_cycles, run_codebooks
from hdl.attention.geometry import AttentionGeometry
from sim.contract.attention import Attention, DecomposedBias, stationary_planes
from sim.contract.codebook import high_plane_codebook, low_plane_codebook
from sim.contract.constants import BIAS_FRACTION_BITS, CODES, LEVEL_MAX, SCALE_BITS, SCALE_FRACTION_BITS
from sim.contract.errors import UserError
from sim.contract.layer import weight_nibbles
from sim.machine.settings import Phase

Q_SHIFT = 128
NIBBLES, Q_LEVELS, Q_HIGH = 0, 1, 1
"""Codebooks: levels 0..15, and those of q where codes of q are streamed as they are; or, with `split`, -8..7 for the
high nibble of q and 0..15 for the low one behind it."""


@dataclass(frozen=True)
class RowSet:
    """A head of a window with `queries` of its queries."""

    window: int
    head: int
    queries: slice


@dataclass
class Plan:
    """Commands and the transfers they consume, in order; see hdl.attention.attention for shapes.

    sets: what the MIX number n gives. channels, columns: of a head and of the array, to put results together.
    multiply_accumulates: of 4 bits, without padding.
    """

    codebooks: list[NDArray[np.int8]]
    thresholds: NDArray[np.int32]
    nibbles: NDArray[np.uint8]
    channels: int
    commands: list[dict[str, int]] = field(default_factory=list)
    weights: list[NDArray[np.int8]] = field(default_factory=list)
    scale: list[NDArray[np.int64]] = field(default_factory=list)
    bias: list[NDArray[np.int64]] = field(default_factory=list)
    blocks: list[NDArray[np.uint8]] = field(default_factory=list)
    position: list[NDArray[np.int64]] = field(default_factory=list)
    sets: list[RowSet] = field(default_factory=list)
    multiply_accumulates: int = 0

    def predicted_cycles(self, geometry: AttentionGeometry) -> list[int]:
        """Cycles of each command by the formula of hdl.attention.attention."""
        return [command_cycles(geometry, command, self.codebooks) for command in self.commands]

    @property
    def code_cycles(self) -> int:
        """Cycles in which the array takes codes: one per query of every RUN."""
        return sum(
            command["tiles"] * command["groups"] * command["planes"] * command["runs"] * command["queries"]
            for command in self.commands
        )

    @property
    def loads(self) -> int:
        """LOADs of tables."""
        return sum(
            command["tiles"] * command["groups"] * command["planes"] * len(run_codebooks(command))
            for command in self.commands
        )

    def modelled(self, geometry: AttentionGeometry) -> NDArray[np.int16]:
        """Transfers int16 (n, columns) of port `o`, by the unit's model."""
        return AttentionUnit.model(
            geometry,
            self.commands,
            codebooks=dict(enumerate(self.codebooks)),
            thresholds=self.thresholds,
            nibbles=self.nibbles,
            weights=self.weights,
            scale=self.scale,
            bias=self.bias,
            blocks=self.blocks,
            position=self.position,
        )

    def output_transfers(self, geometry: AttentionGeometry) -> int:
        """Transfers of port `o`."""
        outward = [command for command in self.commands if command["phase"] != Phase.SCORES]
        return sum(command["tiles"] * command["queries"] for command in outward if command["last"])

    def assemble(self, transfers: NDArray[np.int16], result: NDArray[np.int16]) -> None:
        """Puts transfers (n, columns) into the wide result (windows, queries, H * D)."""
        columns = transfers.shape[1]
        start = 0
        for rows in self.sets:
            count = rows.queries.stop - rows.queries.start
            for channel in range(0, self.channels, columns):
                width = min(columns, self.channels - channel)
                place = rows.head * self.channels + channel
                part = transfers[start : start + count, :width]
                result[rows.window, rows.queries, place : place + width] = part
                start += count


def plan(
    attention: Attention,
    codes: dict[str, NDArray[np.uint8]],
    geometry: AttentionGeometry,
    *,
    queries: int | None = None,
    split: bool = False,
) -> Plan:
    """The plan of all heads of all windows for codes uint8 (windows, tokens, H * D) by "q", "k", "v".

    queries: how many of a window's queries, from the first on (default: all). split: a LOAD for every RUN of q.
    Raises UserError when P has other than 16
    codes or more nibbles than the unit, a scale exceeds the array's, or not even one query fits the buffers.
    """
    if attention.score_levels.size != CODES or attention.score_planes > geometry.score_planes:
        raise UserError(
            f"{attention.name}: P has {attention.score_levels.size} codes of {attention.score_planes} nibbles, the "
            f"attention unit takes {CODES} codes of up to {geometry.score_planes}"
        )
    if attention.position is not None and not geometry.bias:
        raise UserError(f"{attention.name} has a position bias, the attention unit none (bias=0)")
    nibbles = np.zeros((CODES, geometry.score_planes), np.uint8)
    nibbles[:, : attention.score_planes] = attention.score_nibbles()
    result = Plan(
        codebooks=[low_plane_codebook(), *_codebooks_of_q(attention, split)],
        thresholds=attention.thresholds,
        nibbles=nibbles,
        channels=attention.q.channels // attention.heads,
    )
    mixes: list[RowSet] = []
    for rows in _sets(attention, codes, geometry, queries, split=split):
        _scores(result, attention, codes, geometry, rows, split=split)
        mixes.append(rows)
        if len(mixes) == 2:
            _mix(result, attention, codes, geometry, mixes.pop(0))
    for rows in mixes:
        _mix(result, attention, codes, geometry, rows)
    return result


def _streams_codes(attention: Attention) -> bool:
    levels = attention.q.levels
    return levels.shape == (1, CODES) and int(np.abs(levels.astype(np.int64)).max()) <= LEVEL_MAX


def _side_by_side(attention: Attention, array: ArrayGeometry, split: bool) -> bool:
    """Both nibbles of a head's channels fit the rows, of q and of k."""
    width = attention.q.channels // attention.heads
    both = not _streams_codes(attention) and stationary_planes(attention.k) == 2
    return both and not split and 2 * width <= array.rows


def _words_of_query(attention: Attention, array: ArrayGeometry, split: bool) -> int:
    """Words of streamed codes of a query in a head."""
    if _side_by_side(attention, array, split):
        return 3
    width = attention.q.channels // attention.heads
    return -(-width // array.rows) * (1 if _streams_codes(attention) else 2)


def _codebooks_of_q(attention: Attention, split: bool) -> list[NDArray[np.int8]]:
    if _streams_codes(attention):
        return [attention.q.levels[0]]
    return [high_plane_codebook(), low_plane_codebook()] if split else []


def _sets(
    attention: Attention,
    codes: dict[str, NDArray[np.uint8]],
    geometry: AttentionGeometry,
    queries: int | None,
    *,
    split: bool,
) -> Iterator[RowSet]:
    windows, tokens = codes["q"].shape[:2]
    keys = codes["k"].shape[1]
    array = geometry.array
    room = min(
        geometry.logit_words // -(-keys // array.columns),
        geometry.code_words // -(-keys // array.rows),
        geometry.block_words // _words_of_query(attention, array, split),
    )
    if keys > geometry.keys or not room:
        raise UserError(f"{attention.name}: a row of {keys} keys does not fit the attention unit's buffers")
    block = min(room, array.token_depth)
    total = tokens if queries is None else min(queries, tokens)
    for window in range(windows):
        for head in range(attention.heads):
            for first in range(0, total, block):
                yield RowSet(window, head, slice(first, min(first + block, total)))


def _scores(
    result: Plan,
    attention: Attention,
    codes: dict[str, NDArray[np.uint8]],
    geometry: AttentionGeometry,
    rows: RowSet,
    *,
    split: bool,
) -> None:
    array, width = geometry.array, result.channels
    channels = slice(rows.head * width, (rows.head + 1) * width)
    as_codes = _streams_codes(attention)
    q_codes = codes["q"][rows.window, rows.queries]
    k = attention.k.level(codes["k"][rows.window])[:, channels].astype(np.int8)
    q_levels = attention.q.level(q_codes)[:, channels]
    shifted = (q_levels + Q_SHIFT).astype(np.uint8)
    streamed = [q_codes[:, channels]] if as_codes else [shifted >> 4, shifted & (CODES - 1)]
    stationary = weight_nibbles(k, stationary_planes(attention.k))
    queries, keys = len(q_codes), len(k)
    scale = int(attention.array_logit_scale()[rows.head])
    highest = scale * CODES ** (len(streamed) + len(stationary) - 2)
    if highest >= 1 << SCALE_BITS:
        raise UserError(f"{attention.name}: a logit scale of {highest} exceeds the array's {(1 << SCALE_BITS) - 1}")
    shift = 0 if as_codes or split else Q_SHIFT
    offset = -shift * scale * k.astype(np.int64).sum(axis=1) >> (SCALE_FRACTION_BITS - BIAS_FRACTION_BITS)

    # Steps on the rows: (weights (keys, rows), [(codes (queries, rows), nibbles above the lowest pair)]) per LOAD.
    steps = []
    side_by_side = _side_by_side(attention, array, split)
    if side_by_side:
        nothing = np.zeros_like(streamed[0])
        pairs = [(streamed[0], nothing), (streamed[1], streamed[0]), (nothing, streamed[1])]
        runs = [(np.concatenate(pair, axis=1), 2 - number) for number, pair in enumerate(pairs)]
        steps.append((np.concatenate(stationary, axis=1), runs))
    else:
        for start in range(0, width, array.rows):
            part = slice(start, start + array.rows)
            for high, nibble in enumerate(stationary):
                above = len(stationary) - 1 - high + len(streamed) - 1
                steps.append((nibble[:, part], [(plane[:, part], above - n) for n, plane in enumerate(streamed)]))
    tiles = -(-keys // array.columns)
    for tile in range(tiles):
        part = slice(tile * array.columns, (tile + 1) * array.columns)
        result.bias.append(_padded(offset[part], (array.columns,)))
        for weights, runs in steps:
            tables = _padded(weights[part].T, (array.rows, array.columns))
            result.weights += [tables] * (len(runs) if split else 1)
            for _, above in runs:
                result.scale.append(np.full(array.columns, scale * CODES**above))
    planes = 1 if side_by_side else len(stationary)
    words = [_padded(plane, (queries, array.rows)) for _, runs in steps[::planes] for plane, _ in runs]
    result.blocks.append(np.stack(words, axis=1).reshape(-1, array.rows))
    if geometry.bias:
        result.position.append(_position(attention, q_levels, rows, (queries, keys)))
    result.commands.append(
        {
            "phase": Phase.SCORES,
            "codebook": Q_LEVELS if as_codes else Q_HIGH if split else NIBBLES,
            "queries": queries,
            "keys": keys,
            "tiles": tiles,
            "groups": len(steps) // planes,
            "planes": planes,
            "runs": len(steps[0][1]),
            "first": 1,
            "last": 1,
            "split": int(split),
            "word": 0,
            "pitch": len(words),
            "release": 1,
        }
    )
    result.multiply_accumulates += queries * keys * width * len(streamed) * len(stationary)


def _position(
    attention: Attention, q_levels: NDArray[np.int16], rows: RowSet, shape: tuple[int, int]
) -> NDArray[np.int64]:
    if attention.position is None:
        return np.zeros(shape, np.int64)
    first = rows.queries.start
    if isinstance(attention.position, DecomposedBias):
        heads = np.zeros((1, attention.heads, *q_levels.shape), np.float32)
        heads[:, rows.head] = q_levels
        return attention.position.of(heads, first)[0, rows.head].astype(np.int64)
    return attention.position.of(q_levels.astype(np.float32), first)[rows.head].astype(np.int64)


def _mix(
    result: Plan, attention: Attention, codes: dict[str, NDArray[np.uint8]], geometry: AttentionGeometry, rows: RowSet
) -> None:
    array, width = geometry.array, result.channels
    channels = slice(rows.head * width, (rows.head + 1) * width)
    v = attention.v.level(codes["v"][rows.window])[:, channels].astype(np.int8)
    stationary = weight_nibbles(v, stationary_planes(attention.v))
    runs = attention.score_planes
    scale, bias = attention.scale[channels].astype(np.int64), attention.bias[channels].astype(np.int64)
    queries, keys = rows.queries.stop - rows.queries.start, len(v)
    groups, tiles = -(-keys // array.rows), -(-width // array.columns)
    for tile in range(tiles):
        part = slice(tile * array.columns, (tile + 1) * array.columns)
        result.bias.append(_padded(bias[part], (array.columns,)))
        for group in range(groups):
            inputs = slice(group * array.rows, (group + 1) * array.rows)
            for high, nibble in enumerate(stationary):
                result.weights.append(_padded(nibble[inputs, part], (array.rows, array.columns)))
                for run in range(runs):
                    above = len(stationary) - 1 - high + runs - 1 - run
                    result.scale.append(_padded(scale[part] * CODES**above, (array.columns,)))
    shape = {
        "tiles": tiles,
        "groups": groups,
        "planes": len(stationary),
        "runs": runs,
        "first": 1,
        "last": 1,
        "split": 0,
        "word": 0,
        "pitch": 0,
        "release": 0,
    }
    result.commands.append({"phase": Phase.MIX, "codebook": NIBBLES, "queries": queries, "keys": keys, **shape})
    result.sets.append(rows)
    result.multiply_accumulates += queries * keys * width * len(stationary) * runs


def _padded(values: NDArray, shape: tuple[int, ...]) -> NDArray:
    """A copy of `values` in the corner of zeros of the given shape."""
    padded = np.zeros(shape, values.dtype)
    padded[tuple(slice(length) for length in values.shape)] = values
    return padded
