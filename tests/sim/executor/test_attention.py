import numpy as np
import pytest
from numpy.typing import NDArray

from sim.contract.attention import Attention, DecomposedBias, StaticBias, stationary_planes
from sim.contract.codebook import high_plane_codebook, low_plane_codebook
from sim.contract.constants import CODES
from sim.contract.encoder import Encoder
from sim.contract.layer import weight_nibbles
from sim.contract.nibbles import pack_nibbles
from sim.contract.softmax import log_thresholds
from sim.contract.wide import Wide, finish_wide
from sim.machine.ports import Port
from sim.machine.presets import PRESETS
from sim.machine.settings import SCORE_PLANES, Phase
from tests.sim.executor.assembler import Assembler

LOW, Q_LEVELS, SPLIT = 0, 1, 2
"""Codebooks: nibbles as they are, levels of 4-bit q, and from SPLIT on those of the high and low nibble of a byte."""


def encoder(channels: int, low: int, high: int) -> Encoder:
    rng = np.random.default_rng(channels - low)
    return Encoder(
        name="attend",
        input_exponent=-8,
        permutation=np.arange(channels).astype(np.uint16),
        multiplier=rng.integers(700, 1200, channels).astype(np.int16),
        addend=rng.integers(250 << 14, 260 << 14, channels).astype(np.int32),
        shift=np.full(-(-channels // 64), 14, np.uint8),
        levels=np.arange(low, high + 1).astype(np.int8)[None],
    )


def attention(
    kind: str, heads: int, width: int, shape: tuple[int, int], *, four_bit: bool, top: int = 255
) -> Attention:
    """top: the largest level of P; 4,095 takes three nibbles."""
    rng = np.random.default_rng(heads + width)
    channels, (rows, columns) = heads * width, shape
    limits = [(-8, 7)] * 3 if four_bit else [(-128, 127), (-128, 119), (-128, 119)]
    position: StaticBias | DecomposedBias | None = None
    if kind == "static":
        position = StaticBias(rng.integers(-900, 900, (heads, rows * rows)).astype(np.int16), rows)
    elif kind == "decomposed":
        position = DecomposedBias(
            rel_rows=rng.integers(-128, 120, (heads, 2 * rows - 1, width)).astype(np.int8),
            rel_columns=rng.integers(-128, 120, (heads, 2 * columns - 1, width)).astype(np.int8),
            row_scale=rng.integers(10, 60, heads).astype(np.uint16),
            column_scale=rng.integers(10, 60, heads).astype(np.uint16),
            rows=rows,
            columns=columns,
        )
    q, k, v = (encoder(channels, *limit) for limit in limits)
    return Attention(
        name="attend",
        heads=heads,
        q=q,
        k=k,
        v=v,
        logit_scale=rng.integers(100, 250, heads).astype(np.uint16) * np.uint16(64 if four_bit else 1),
        thresholds=log_thresholds(np.geomspace(1 / 200, 0.6, 15)),
        score_levels=np.rint(top * (np.arange(16) / 15) ** 1.3).astype(np.uint16),
        scale=rng.integers(100 * 255 // top, 256 * 255 // top, channels).astype(np.uint16),
        bias=rng.integers(-(1 << 16), 1 << 16, channels).astype(np.int32),
        wide_exponent=-8,
        position=position,
    )


def in_corner(values: NDArray, *shape: int) -> NDArray:
    padded = np.zeros(shape, values.dtype)
    padded[tuple(slice(length) for length in values.shape)] = values
    return padded


class Program:
    """One window, head by head, in blocks of queries."""

    def __init__(self, a: Assembler, operation: Attention, operands: tuple[Wide, Wide, Wide], *, split: bool) -> None:
        self.a, self.operation, self.split = a, operation, split
        encoders = (operation.q, operation.k, operation.v)
        self.codes = [part.encode(x)[0] for part, x in zip(encoders, operands, strict=True)]
        self.levels = [part.level(codes) for part, codes in zip(encoders, self.codes, strict=True)]
        self.width = operation.q.channels // operation.heads
        q_levels = operation.q.levels[0] if operation.q.code_planes == 1 else low_plane_codebook()
        a.codebooks(low_plane_codebook(), q_levels, high_plane_codebook(), low_plane_codebook())
        a.records(Port.THRESHOLD, [(code + 1, int(t)) for code, t in enumerate(operation.thresholds)])
        nibbles = np.zeros((CODES, SCORE_PLANES), np.int64)
        nibbles[:, : operation.score_planes] = operation.score_nibbles()
        a.records(Port.SCORE_LEVEL, [(code, *row) for code, row in enumerate(nibbles.tolist())])

    def channels(self, head: int) -> slice:
        return slice(head * self.width, (head + 1) * self.width)

    def scores(self, head: int, first: int, queries: int) -> None:
        a, operation, preset = self.a, self.operation, self.a.preset
        q_codes = self.codes[0][first : first + queries, self.channels(head)]
        k = self.levels[1][:, self.channels(head)].astype(np.int8)
        stationary = weight_nibbles(k, stationary_planes(operation.k))
        streamed = [q_codes] if operation.q.code_planes == 1 else [q_codes >> 4, q_codes & 15]
        codebook = Q_LEVELS if len(streamed) == 1 else (SPLIT if self.split else LOW)
        split = self.split and len(streamed) == 2
        scale = int(operation.array_logit_scale()[head])
        shift = 0 if split or len(streamed) == 1 else 128
        offset = -shift * scale * k.astype(np.int64).sum(axis=1) // 4
        keys, tiles = len(k), -(-len(k) // preset.columns)
        runs, groups = len(streamed), -(-self.width // preset.rows)
        # Words of group and run behind one that nobody reads.
        words = np.zeros((queries, 1 + groups * runs, preset.rows), np.int8)
        for group in range(groups):
            rows = slice(group * preset.rows, (group + 1) * preset.rows)
            for run, plane in enumerate(streamed):
                words[:, 1 + group * runs + run] = in_corner(plane[:, rows], queries, preset.rows)
        a.send(Port.CODE_BLOCK, queries * words.shape[1])
        a.read(Port.CODES, pack_nibbles(words.reshape(1, -1)))
        a.array(
            Phase.SCORES,
            split=split,
            release=1,
            planes=len(stationary),
            codebook=codebook,
            runs=runs,
            queries=queries,
            keys=keys,
            tiles=tiles,
            groups=groups,
            word=1,
            pitch=words.shape[1],
        )
        for tile in range(tiles):
            part = slice(tile * preset.columns, (tile + 1) * preset.columns)
            for group, high, run in np.ndindex(groups, len(stationary), runs):
                above = len(stationary) - 1 - high + runs - 1 - run
                a.read(Port.SCALE, np.full(preset.columns, scale * 16**above, np.uint16))
                if group == high == run == 0:
                    a.read(Port.BIAS, in_corner(offset[part].astype(np.int32), preset.columns))
                if run == 0 or split:
                    rows = slice(group * preset.rows, (group + 1) * preset.rows)
                    turned = in_corner(stationary[high][part, rows], preset.columns, preset.rows)
                    # Of each row group all columns, a row of them behind the other.
                    turned = turned.reshape(preset.columns, -1, preset.loader_rows).transpose(1, 0, 2)
                    a.read(Port.WEIGHTS_TURNED, pack_nibbles(turned.reshape(1, -1)))

    def position(self, head: int, first: int, queries: int, rows: int, columns: int, *, values: bool) -> None:
        a, bias = self.a, self.operation.position
        if not values:
            kind = 0 if bias is None else 1 if isinstance(bias, StaticBias) else 2
            a.send(Port.POSITION_COMMAND, kind, rows, columns, first, queries)
        elif isinstance(bias, StaticBias):
            table = bias.table[head].reshape(rows, columns)
            a.read(Port.POSITION_VALUES, in_corner(table, rows, -(-columns // 8) * 8))
        elif bias is not None:
            q = self.levels[0][first : first + queries, self.channels(head)].astype(np.int64)
            parts = []
            for tables, scales in ((bias.rel_rows, bias.row_scale), (bias.rel_columns, bias.column_scale)):
                table = tables[head].astype(np.int64)
                vectors = finish_wide(q @ table.T * int(scales[head]), 10)
                parts.append(in_corner(vectors, queries, -(-len(table) // 8) * 8))
            vectors = np.concatenate(parts, axis=1)
            for part in (vectors[:5], vectors[5:]):
                a.read(Port.POSITION_VALUES, part)

    def mix(self, head: int, queries: int) -> tuple[int, int]:
        """Address and tiles of the results (tiles, queries, columns)."""
        a, operation, preset = self.a, self.operation, self.a.preset
        v = self.levels[2][:, self.channels(head)].astype(np.int8)
        stationary = weight_nibbles(v, stationary_planes(operation.v))
        scale, bias = operation.scale[self.channels(head)], operation.bias[self.channels(head)]
        keys, runs = len(v), operation.score_planes
        groups, tiles = -(-keys // preset.rows), -(-self.width // preset.columns)
        place = a.write(Port.RESULTS, tiles * queries * preset.columns * 2)
        a.array(
            Phase.MIX,
            planes=len(stationary),
            codebook=LOW,
            runs=runs,
            queries=queries,
            keys=keys,
            tiles=tiles,
            groups=groups,
        )
        for tile in range(tiles):
            part = slice(tile * preset.columns, (tile + 1) * preset.columns)
            for group in range(groups):
                inputs = slice(group * preset.rows, (group + 1) * preset.rows)
                for high, nibble in enumerate(stationary):
                    for run in range(runs):
                        above = len(stationary) - 1 - high + runs - 1 - run
                        a.read(Port.SCALE, in_corner(scale[part] * np.uint16(16**above), preset.columns))
                        if group == high == run == 0:
                            a.read(Port.BIAS, in_corner(bias[part], preset.columns))
                        if run == 0:
                            weights = in_corner(nibble[inputs, part], preset.rows, preset.columns)
                            a.read(Port.WEIGHTS, pack_nibbles(weights.reshape(1, -1)))
        return place, tiles


@pytest.mark.parametrize("kind", ["none", "static", "decomposed"])
@pytest.mark.parametrize(("four_bit", "split"), [(True, False), (False, True), (False, False)])
@pytest.mark.parametrize(("preset", "width"), [("tiny", 20), ("small", 20), ("full", 20), ("tiny", 40)])
def test_a_window_head_by_head(kind: str, four_bit: bool, split: bool, preset: str, width: int) -> None:
    heads, rows = 2, 5
    columns = rows if kind == "static" else 7
    compare(preset, attention(kind, heads, width, (rows, columns), four_bit=four_bit), (rows, columns), split=split)


@pytest.mark.parametrize("preset", ["tiny", "full"])
def test_levels_of_three_nibbles(preset: str) -> None:
    """Rows of thousands of keys need them."""
    operation = attention("decomposed", 2, 20, (5, 7), four_bit=False, top=4095)
    assert operation.score_planes == 3
    compare(preset, operation, (5, 7), split=True)


def compare(preset: str, operation: Attention, shape: tuple[int, int], *, split: bool) -> None:
    heads, (rows, columns) = operation.heads, shape
    width = operation.q.channels // heads
    pixels = rows * columns
    rng = np.random.default_rng(4)
    q, k, v = (Wide(rng.normal(0, 600, (1, pixels, heads * width)).astype(np.int16), -8) for _ in range(3))
    expected = operation.run(q, k, v)[1].values[0]

    a = Assembler(PRESETS[preset])
    program = Program(a, operation, (q, k, v), split=split)
    results, waiting = [], []
    block = 19
    for head in range(heads):
        for first in range(0, pixels, block):
            queries = min(block, pixels - first)
            program.position(head, first, queries, rows, columns, values=False)
            program.scores(head, first, queries)
            program.position(head, first, queries, rows, columns, values=True)
            waiting.append((head, first, queries))
            if len(waiting) == 2:
                results.append((*waiting[0], *program.mix(waiting[0][0], waiting[0][2])))
                del waiting[0]
    results.append((*waiting[0], *program.mix(waiting[0][0], waiting[0][2])))
    a.wait()
    a.run()
    for head, first, queries, place, tiles in results:
        found = a.get(place, (tiles, queries, a.preset.columns)).transpose(1, 0, 2).reshape(queries, -1)
        part = expected[first : first + queries, program.channels(head)]
        assert np.array_equal(found[:, :width], part)
        assert len(np.unique(part)) > 50
