"""Attention: q, k and v as codes in memory, then sets of a head of a window with a block of its queries.

Order of the array's commands: SCORES 0, SCORES 1, MIX 0, SCORES 2, MIX 1, ..., so that the softmax of a set runs beside
the array's work on another.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sim.compiler.block_choice import kept_blocks
from sim.compiler.builder import Builder, Levels
from sim.compiler.code_blocks import CodeBlock, Step, run_blocks
from sim.compiler.dense import PassCommands, Results, run_kept
from sim.compiler.encode import HALF_TILE, Codes, encode, plan_codes, plan_operand
from sim.compiler.passes import Pass, Passes, array_command, load_cycles, pack_weights, padded
from sim.compiler.region import Region
from sim.contract.attention import Attention, DecomposedBias, StaticBias, stationary_planes
from sim.contract.codebook import low_plane_codebook
from sim.contract.constants import CODES, SCALE_BITS, TILE_CHANNELS
from sim.contract.encoder import Encoder
from sim.contract.errors import UserError
from sim.contract.layer import level_codebooks, weight_nibbles
from sim.machine.commands import Command
from sim.machine.ports import Port
from sim.machine.presets import CODE_BYTES
from sim.machine.settings import SCORE_PLANES, Phase, PositionKind

THRESHOLD_MAX: Final = (1 << 15) - 1


@dataclass(frozen=True)
class Operand:
    """K or V in memory. codes of groups of HALF_TILE / unit tokens; window: bytes from a window to the next."""

    codes: Codes
    unit: int
    window: int

    @property
    def group(self) -> int:
        """Tokens whose codes lie in one group."""
        return HALF_TILE // self.unit

    def half(self, channel: int, plane: int) -> int:
        """Bytes from a group's first to the nibbles of the `unit` channels from `channel` on."""
        tile, half = divmod(channel // self.unit, TILE_CHANNELS // HALF_TILE)
        return self.codes.plane(tile, plane) + half * CODE_BYTES // 2


@dataclass(frozen=True)
class RowSet:
    """A head of a window with the queries first..first + queries."""

    window: int
    head: int
    first: int
    queries: int


class AttentionLowering:
    """One attention of `windows` windows of `tokens` tokens; results from the first token of `out` on."""

    def __init__(self, builder: Builder, attention: Attention, windows: int, tokens: int, out: Region) -> None:
        """Raises UserError for what the array or its buffers cannot hold."""
        self.builder, self.attention, self.out = builder, attention, out
        self.windows, self.tokens = windows, tokens
        preset = builder.preset
        self.width = attention.q.channels // attention.heads
        self.k_unit = min(HALF_TILE, preset.loader_rows)
        self.v_unit = min(HALF_TILE, preset.columns)
        self._check()
        self.k_planes, self.v_planes = stationary_planes(attention.k), stationary_planes(attention.v)
        words = max(len(self._books(head)) * len(self._windows_of_rows(head)) for head in range(attention.heads))
        room = min(
            preset.logit_words // -(-tokens // preset.columns),
            preset.code_words // -(-tokens // preset.rows),
            preset.block_words // words,
            preset.token_depth,
        )
        if tokens > preset.keys or not room:
            raise UserError(
                f"{attention.name} has rows of {tokens} keys; preset {preset.name} takes {preset.keys}, and as many as "
                f"its buffers of logits, codes and streamed codes hold"
            )
        self.block = -(-tokens // -(-tokens // room))

    def _check(self) -> None:
        attention, preset = self.attention, self.builder.preset
        if attention.score_levels.size != CODES or attention.score_planes > SCORE_PLANES:
            raise UserError(
                f"{attention.name}: P has {attention.score_levels.size} codes of {attention.score_planes} nibbles, the "
                f"machine takes {CODES} codes of up to {SCORE_PLANES}; export with 4 bits"
            )
        for side, name in ((self.k_unit, "loader_rows"), (preset.columns, "columns")):
            if self.width % side or HALF_TILE % min(side, HALF_TILE) or side % min(side, HALF_TILE):
                raise UserError(
                    f"{attention.name} has heads of {self.width} channels, which {name}={side} of preset {preset.name} "
                    f"do not divide; the compiler takes heads of multiples of {HALF_TILE} channels"
                )

    # Operands

    def lower(self, q: NDArray[np.int64], k: NDArray[np.int64], v: NDArray[np.int64]) -> None:
        """The whole attention, for addresses (windows * tokens, beats) of q, k and v."""
        builder, attention, preset = self.builder, self.attention, self.builder.preset
        plan = plan_codes(attention.q, preset.lanes)
        self.q = Codes(builder.take_near_first(len(q) * plan.pitch), plan.pitch, plan.planes)
        encode(builder, plan, q, self.q.address)
        builder.wait()
        # Column tiles of the last keys reach beyond them, into columns that are never looked at.
        beyond = -(-self.tokens // preset.columns) * preset.columns
        self.k = self._operand(attention.k, k, self.k_planes, unit=self.k_unit, kept=self.tokens, reached=beyond)
        whole = -(-self.tokens // preset.rows) * preset.rows
        self.v = self._operand(attention.v, v, self.v_planes, unit=self.v_unit, kept=whole, reached=whole)
        builder.wait()
        self._tables()
        if isinstance(attention.position, DecomposedBias):
            self._decomposed(attention.position)
        else:
            for head in range(attention.heads):
                self._run_sets(head, None)
        builder.wait()
        for codes in (self.q, self.k.codes, self.v.codes):
            builder.give_back(codes.address)

    def _operand(
        self, encoder: Encoder, values: NDArray[np.int64], planes: int, *, unit: int, kept: int, reached: int
    ) -> Operand:
        """Codes of k or v. kept: tokens of a window that have a place; those that are not there become zeros where
        `kept` counts more tokens than there are. reached: tokens that are read from a window's first on."""
        builder, group = self.builder, HALF_TILE // unit
        plan = plan_operand(encoder, planes, unit, group, builder.preset.lanes)
        groups = -(-kept // group)
        window = groups * plan.pitch
        room = self.windows * window + max(0, -(-reached // group) - groups) * plan.pitch
        address = builder.take_near_first(room)
        by_window = values.reshape(self.windows, self.tokens, -1)
        full, rest = divmod(self.tokens, group)
        beats = plan.pitch // builder.beat

        def some(first: int, count: int, present: int) -> None:
            token = np.minimum(np.arange(first * group, (first + count) * group), self.tokens - 1)
            encode(
                builder,
                plan_operand(encoder, planes, unit, present, builder.preset.lanes),
                by_window[:, token].reshape(self.windows * count, -1),
                address + first * plan.pitch,
                (beats * count, builder.beat),
                (self.windows, window),
            )
            builder.wait()

        if full:
            some(0, full, group)
        if rest:
            some(full, 1, rest if kept > self.tokens else group)
        empty = groups - full - (rest > 0)
        if empty:
            place = address + (full + (rest > 0)) * plan.pitch
            builder.write_loops(Port.COPIED, place, (beats * empty, builder.beat), (self.windows, window))
            builder.read_loops(Port.COPY, builder.zeros, (1, builder.beat), (beats * empty, 0), (self.windows, 0))
        return Operand(Codes(address, plan.pitch, planes), unit, window)

    def _tables(self) -> None:
        builder, attention = self.builder, self.attention
        builder.table(
            Port.THRESHOLD,
            {"code": np.arange(1, CODES), "threshold": attention.thresholds.clip(0, THRESHOLD_MAX)},
        )
        nibbles = np.zeros((CODES, SCORE_PLANES), np.int64)
        nibbles[:, : attention.score_planes] = attention.score_nibbles()
        of_plane = {f"nibble{plane}": nibbles[:, plane] for plane in range(SCORE_PLANES)}
        builder.table(Port.SCORE_LEVEL, {"code": np.arange(CODES), **of_plane})

    def _books(self, head: int) -> list[Levels]:
        """Codebooks of the streamed nibbles of q, the high one first."""
        tiles = range(head * self.width // TILE_CHANNELS, -(-(head + 1) * self.width // TILE_CHANNELS))
        sets = [level_codebooks(self.attention.q.tile_levels(tile)) for tile in tiles]
        books = [[tuple(levels.tolist()) for levels in one] for one in sets]
        if any(one != books[0] for one in books):
            raise UserError(f"{self.attention.name}: a head's channels of q have several level sets; export it again")
        return books[0]

    def _windows_of_rows(self, head: int) -> range:
        """Row blocks of the array that hold channels of a head, counted through all channels."""
        rows = self.builder.preset.rows
        return range(head * self.width // rows, -(-(head + 1) * self.width // rows))

    # Sets

    def _sets(self, head: int) -> Iterator[RowSet]:
        for window in range(self.windows):
            for first in range(0, self.tokens, self.block):
                yield RowSet(window, head, first, min(self.block, self.tokens - first))

    def _run_sets(self, head: int, vectors: "Vectors | None") -> None:
        books = self._books(head)
        low = tuple(low_plane_codebook().tolist())
        wanted = books if low in books else [*books, low]
        first_book = self.builder.codebooks(wanted, self.attention.name)
        mix_book = first_book + wanted.index(low)

        @cache
        def mixing(window: int, queries: int) -> list[Command]:
            return self.builder.recorded(partial(self._mix_passes, window, head, queries, mix_book))

        @cache
        def scores(window: int, queries: int) -> list[Step]:
            return self._scores(window, head, queries, books, first_book)

        @cache
        def scoring(window: int, queries: int, number: int) -> list[Command]:
            return self.builder.recorded(scores(window, queries)[number])

        def score(window: int, queries: int, number: int) -> None:
            self.builder.commands += scoring(window, queries, number)

        def mix(rows: RowSet) -> None:
            self._write_mixed(rows)
            self.builder.commands += mixing(rows.window, rows.queries)

        def behind(rows: RowSet, before: RowSet | None, last: bool) -> None:
            self._position(rows, vectors)
            if before is not None:
                mix(before)
            if last:
                mix(rows)

        def blocks() -> Iterator[CodeBlock]:
            sets = list(self._sets(head))
            for number, rows in enumerate(sets):
                count = len(scores(rows.window, rows.queries))
                steps = [partial(score, rows.window, rows.queries, step) for step in range(count)]
                before = sets[number - 1] if number else None
                last = number == len(sets) - 1
                words = self._words(head, books)
                yield CodeBlock(
                    words=rows.queries * len(words),
                    tokens=rows.queries,
                    beats=len(words) * self.builder.preset.rows // 2 // self.builder.beat,
                    feed=partial(self._stream, rows, words),
                    steps=[*steps, partial(behind, rows, before, last)],
                    period=count,
                )

        run_blocks(self.builder, blocks())
        self.builder.roll_long()

    def _words(self, head: int, books: list[Levels]) -> NDArray[np.int64]:
        """Bytes from a token's first code of q to the words that SCORES takes of it, group by group, run by run."""
        rows = self.builder.preset.rows
        words = []
        for block in self._windows_of_rows(head):
            tile, row = divmod(block * rows, TILE_CHANNELS)
            words += [self.q.plane(tile, run if self.q.planes == 2 else 0) + row // 2 for run in range(len(books))]
        return np.array(words)

    def _stream(self, rows: RowSet, words: NDArray[np.int64], first: int, stop: int) -> None:
        """READ q of the queries first..stop of a set."""
        builder = self.builder
        token = rows.window * self.tokens + rows.first + np.arange(first, stop)
        beats = np.arange(builder.preset.rows // 2 // builder.beat) * builder.beat
        start = self.q.address + token * self.q.pitch
        builder.read(Port.CODES, start[:, None, None] + words[:, None] + beats)

    def _scale(self, scale: int) -> int:
        """Address of a payload of one scale for all columns. Raises UserError where it does not fit 16 bits."""
        if scale >= 1 << SCALE_BITS:
            raise UserError(
                f"{self.attention.name}: a scale of {scale} exceeds {(1 << SCALE_BITS) - 1}; export it again"
            )
        return self.builder.constant(np.full(self.builder.preset.columns, scale, "<u2").tobytes())

    def _scores(self, window: int, head: int, queries: int, books: list[Levels], first_book: int) -> list[Step]:
        """The command with its first operands, then pass by pass: the same for any queries of a head of a window."""
        builder, preset = self.builder, self.builder.preset
        tiles = -(-self.tokens // preset.columns)
        blocks = self._windows_of_rows(head)
        scale = int(self.attention.array_logit_scale()[head])
        nothing = builder.constant(bytes(preset.columns * 4))

        def command() -> None:
            array_command(
                builder,
                Phase.SCORES,
                codebook=first_book,
                queries=queries,
                keys=self.tokens,
                tiles=tiles,
                groups=len(blocks),
                planes=self.k_planes,
                runs=len(books),
                first=1,
                last=1,
                split=1,
                release=1,
                pitch=len(blocks) * len(books),
            )

        def step(tile: int, block: int, plane: int, run: int) -> None:
            start = block == blocks[0] and plane == run == 0
            if start and tile == 0:
                command()
            above = self.k_planes - 1 - plane + len(books) - 1 - run
            builder.read_block(Port.SCALE, self._scale(scale * CODES**above), 1)
            if start:
                builder.read_block(Port.BIAS, nothing, 1)
            builder.read(Port.WEIGHTS_TURNED, self._keys(window, head, tile, block, plane))

        return [
            partial(step, tile, block, plane, run)
            for tile in range(tiles)
            for block in blocks
            for plane in range(self.k_planes)
            for run in range(len(books))
        ]

    def _keys(self, window: int, head: int, tile: int, block: int, plane: int) -> NDArray[np.int64]:
        """Addresses of the beats of K^T: a column tile of keys, a row block of channels; other heads are zeros."""
        preset, k = self.builder.preset, self.k
        channels = range(head * self.width, (head + 1) * self.width)
        group = np.arange(tile * preset.columns // k.group, (tile + 1) * preset.columns // k.group)
        columns = k.codes.address + window * k.window + group * k.codes.pitch
        parts = []
        for load in range(preset.rows // preset.loader_rows):
            channel = block * preset.rows + load * preset.loader_rows
            units = [
                columns + k.half(one, plane) if one in channels else np.full_like(columns, self.builder.zeros)
                for one in range(channel, channel + preset.loader_rows, k.unit)
            ]
            parts.append(np.stack(units, axis=1).reshape(-1))
        return np.concatenate(parts)

    def _write_mixed(self, rows: RowSet) -> None:
        """WRITE the results of a set."""
        width = self.builder.preset.columns * 2
        token = rows.window * self.tokens + rows.first
        self.builder.write_loops(
            Port.RESULTS,
            self.out.address + token * self.out.pitch + rows.head * self.width * 2,
            (width // self.builder.beat, self.builder.beat),
            (rows.queries, self.out.pitch),
            (self.width * 2 // width, width),
        )

    def _mix_passes(self, window: int, head: int, queries: int, codebook: int) -> None:
        """P.v, the same for any queries of a head of a window."""
        builder, preset, attention, v = self.builder, self.builder.preset, self.attention, self.v
        tiles, groups, runs = self.width // preset.columns, -(-self.tokens // preset.rows), attention.score_planes
        shape = {"tiles": tiles, "groups": groups, "planes": self.v_planes, "runs": runs}
        array_command(
            builder, Phase.MIX, codebook=codebook, queries=queries, keys=self.tokens, first=1, last=1, **shape
        )
        for tile in range(tiles):
            channel = head * self.width + tile * preset.columns
            part = slice(channel, channel + preset.columns)
            scale = attention.scale[part].astype(np.int64)
            bias = builder.constant(attention.bias[part].astype("<i4").tobytes())
            for group in range(groups):
                for plane in range(self.v_planes):
                    for run in range(runs):
                        above = self.v_planes - 1 - plane + runs - 1 - run
                        content = (scale * CODES**above).astype("<u2").tobytes()
                        builder.read_block(Port.SCALE, builder.constant(content), 1)
                        if run:
                            continue
                        if group == plane == 0:
                            builder.read_block(Port.BIAS, bias, 1)
                        builder.read_loops(
                            Port.WEIGHTS,
                            v.codes.address
                            + window * v.window
                            + group * preset.rows // v.group * v.codes.pitch
                            + v.half(channel, plane),
                            (1, builder.beat),
                            (preset.rows // v.group, v.codes.pitch),
                        )

    # Positions

    def _position(self, rows: RowSet, vectors: "Vectors | None") -> None:
        builder, bias = self.builder, self.attention.position
        if isinstance(bias, StaticBias):
            side = bias.window
            self._position_command(PositionKind.STATIC, side, side, rows)
            width = -(-side // builder.preset.lanes) * builder.preset.lanes
            table = padded(bias.table[rows.head].reshape(side, side), side, width)
            content = table.astype("<i2").tobytes()
            builder.read_loops(
                Port.POSITION_VALUES, builder.constant(content), (len(content) // builder.beat, builder.beat)
            )
        elif isinstance(bias, DecomposedBias):
            assert vectors is not None
            self._position_command(PositionKind.DECOMPOSED, bias.rows, bias.columns, rows)
            token = rows.window * self.tokens + rows.first
            builder.read(Port.POSITION_VALUES, vectors.of_tokens(token, rows.queries, builder))
        else:
            columns = math.gcd(self.tokens, math.isqrt(self.tokens))
            self._position_command(PositionKind.NONE, self.tokens // columns, columns, rows)

    def _position_command(self, kind: PositionKind, down: int, across: int, rows: RowSet) -> None:
        """The command for a set: sent where a window has one set, else read, so that sets differ in addresses alone and
        roll up."""
        builder, shape = self.builder, {"kind": kind, "rows": down, "columns": across}
        if self.block == self.tokens:
            builder.send(Port.POSITION_COMMAND, **shape, first_query=0, queries=self.tokens)
            return
        first = np.arange(0, self.tokens, self.block)
        queries = np.minimum(self.block, self.tokens - first)
        records = builder.records(Port.POSITION_COMMAND, shape | {"first_query": first, "queries": queries})
        of_set = np.frombuffer(records, np.uint8).reshape(len(first), -1)
        address = builder.constant(padded(of_set, len(first), builder.beat).tobytes())
        builder.read_block(Port.POSITION_COMMAND, address + rows.first // self.block * builder.beat, 1)

    def _decomposed(self, bias: DecomposedBias) -> None:
        """Head by head: a dense layer from q to the products with both tables, then the head's sets."""
        builder, preset = self.builder, self.builder.preset
        longest = 2 * max(bias.rows, bias.columns) - 1
        width = -(-longest // preset.columns) * preset.columns
        tokens = self.windows * self.tokens
        room = builder.take_near_first(tokens * width * 4)
        vectors = Vectors(room, width, 2 * bias.rows - 1, 2 * bias.columns - 1)
        for head in range(self.attention.heads):
            layer = self._position_layer(bias, head, width)
            first_tile = head * self.width // TILE_CHANNELS
            codes = replace(self.q, address=self.q.address + self.q.plane(first_tile, 0))
            choice = replace(kept_blocks(preset, tokens, layer.words), kept=tokens)
            run_kept(PassCommands(builder, layer), codes, choice, Results(vectors.address, width * 4))
            builder.wait()
            self._run_sets(head, vectors)
            builder.wait()
        builder.give_back(vectors.address)

    def _position_layer(self, bias: DecomposedBias, head: int, width: int) -> Passes:
        """The products of a head's q with its tables, rows in the first `width` results, columns in the next."""
        builder, preset = self.builder, self.builder.preset
        books = self._books(head)
        first_book = builder.codebooks(books, self.attention.name)
        blocks = self._windows_of_rows(head)
        table = np.zeros((2 * width, len(blocks) * preset.rows), np.int8)
        start = head * self.width - blocks[0] * preset.rows
        for number, part in enumerate((bias.rel_rows[head], bias.rel_columns[head])):
            table[number * width : number * width + len(part), start : start + self.width] = part
        scale = np.repeat([int(bias.row_scale[head]), int(bias.column_scale[head])], width)
        nibbles = [builder.constant(pack_weights(nibble, preset)) for nibble in weight_nibbles(table, 2)]
        tiles = 2 * width // preset.columns
        highest = int(scale.max()) * CODES ** len(books)
        if highest >= 1 << SCALE_BITS:
            raise UserError(
                f"{self.attention.name}: a position scale of {highest} exceeds {(1 << SCALE_BITS) - 1}; export it again"
            )
        scales = {
            above: builder.constant((scale * CODES**above).astype("<u2").tobytes()) for above in range(len(books) + 1)
        }
        passes = []
        of_tile, planes = TILE_CHANNELS // preset.rows, self.q.planes
        begin = blocks[0] // of_tile
        for number, block in enumerate(blocks):
            q_tile, part = divmod(block, of_tile)
            for high, nibble in enumerate(nibbles):
                for run in range(len(books)):
                    passes.append(
                        Pass(
                            codebook=first_book + run,
                            scale=scales[1 - high + len(books) - 1 - run],
                            weights=nibble + number * preset.pass_bytes,
                            word=((q_tile - begin) * planes + (run if planes == 2 else 0)) * of_tile + part,
                        )
                    )
        return Passes(
            passes=tuple(passes),
            words=(blocks[-1] // of_tile - begin + 1) * planes * of_tile,
            planes=(),
            bias=builder.constant(bytes(preset.columns * 4)),
            columns=tiles,
            scale_pitch=preset.columns * 2,
            bias_pitch=0,
            weight_pitch=len(blocks) * preset.pass_bytes,
            load=load_cycles(books, preset),
        )


@dataclass(frozen=True)
class Vectors:
    """Products of q with the tables of rows and columns: of every token two vectors of `width` values, of which the
    first `rows` and `columns` count."""

    address: int
    width: int
    rows: int
    columns: int

    def of_tokens(self, first: int, count: int, builder: Builder) -> NDArray[np.int64]:
        """Addresses of the beats that the position unit takes for tokens first..first + count."""
        token = self.address + (first + np.arange(count)) * self.width * 4
        beats = [
            token[:, None] + part * self.width * 2 + np.arange(-(-length // builder.preset.lanes)) * builder.beat
            for part, length in enumerate((self.rows, self.columns))
        ]
        return np.concatenate(beats, axis=1)
