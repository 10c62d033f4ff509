"""Attention: q, k and v as codes in memory, then sets of a head of a window with a block of its queries.

Order of the array's commands: SCORES 0, SCORES 1, MIX 0, SCORES 2, MIX 1, ..., so that the softmax of a set runs beside
the array's work on another.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sim.compiler.block_choice import kept_blocks
from sim.compiler.builder import Builder, Levels
from sim.compiler.code_blocks import CodeBlock, run_blocks
from sim.compiler.dense import PassCommands, Results, run_kept
from sim.compiler.encode import HALF_TILE, Codes, encode, plan_codes
from sim.compiler.head_commands import HeadCommands
from sim.compiler.heads import Heads, RowSet, queries_of_set
from sim.compiler.near_keys import head_keys
from sim.compiler.operand import write_operand
from sim.compiler.position import Positions, Vectors
from sim.compiler.region import Region
from sim.contract.attention import Attention, DecomposedBias, stationary_planes
from sim.contract.constants import CODES, TILE_CHANNELS
from sim.contract.errors import UserError
from sim.machine.ports import Port
from sim.machine.settings import SCORE_PLANES

THRESHOLD_MAX: Final = (1 << 15) - 1


class AttentionLowering:
    """One attention of `windows` windows of `tokens` tokens; results from the first token of `out` on."""

    def __init__(self, builder: Builder, attention: Attention, windows: int, tokens: int, out: Region) -> None:
        """Raises UserError for what the array or its buffers cannot hold."""
        self.builder, self.attention, self.out = builder, attention, out
        self.windows, self.tokens = windows, tokens
        preset = builder.preset
        self.heads = Heads(attention, preset.rows)
        self.k_unit = min(HALF_TILE, preset.loader_rows)
        self.v_unit = min(HALF_TILE, preset.columns)
        self._check()
        self.k_planes, self.v_planes = stationary_planes(attention.k), stationary_planes(attention.v)
        room = queries_of_set(preset, tokens, self.heads.words)
        if tokens > preset.keys or not room:
            raise UserError(
                f"{attention.name} has rows of {tokens} keys; preset {preset.name} takes {preset.keys}, and as many as "
                f"its buffers of logits, codes and streamed codes hold"
            )
        self.block = -(-tokens // -(-tokens // room))
        self.positions = Positions(builder, self.heads, tokens, self.block)

    def _check(self) -> None:
        attention, preset = self.attention, self.builder.preset
        if attention.score_levels.size != CODES or attention.score_planes > SCORE_PLANES:
            raise UserError(
                f"{attention.name}: P has {attention.score_levels.size} codes of {attention.score_planes} nibbles, the "
                f"machine takes {CODES} codes of up to {SCORE_PLANES}; export with 4 bits"
            )
        for side, name in ((self.k_unit, "loader_rows"), (preset.columns, "columns")):
            if self.heads.width % side or HALF_TILE % min(side, HALF_TILE) or side % min(side, HALF_TILE):
                raise UserError(
                    f"{attention.name} has heads of {self.heads.width} channels, which {name}={side} of preset "
                    f"{preset.name} do not divide; the compiler takes heads of multiples of {HALF_TILE} channels"
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
        k, v = (values.reshape(self.windows, self.tokens, -1) for values in (k, v))
        self.k = write_operand(
            builder, attention.k, k, self.k_planes, unit=self.k_unit, kept=self.tokens, reached=beyond
        )
        whole = -(-self.tokens // preset.rows) * preset.rows
        self.v = write_operand(builder, attention.v, v, self.v_planes, unit=self.v_unit, kept=whole, reached=whole)
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

    # Sets

    def _sets(self, head: int) -> Iterator[RowSet]:
        for window in range(self.windows):
            for first in range(0, self.tokens, self.block):
                yield RowSet(window, head, first, min(self.block, self.tokens - first))

    def _run_sets(self, head: int, vectors: Vectors | None) -> None:
        """All sets of a head. Where they go through K again and again, what they read comes near, as far as it fits."""
        builder = self.builder
        channels = range(head * self.heads.width, (head + 1) * self.heads.width)
        again = self.windows == 1 and self.block < self.tokens
        with head_keys(builder, self.k, channels, -(-self.tokens // builder.preset.columns), again=again) as keys:
            commands = HeadCommands(builder, self.heads, keys, self.v, self.tokens)
            with commands.constants_near(self.block):
                self._sets_of_head(head, vectors, commands)

    def _sets_of_head(self, head: int, vectors: Vectors | None, commands: HeadCommands) -> None:
        builder = self.builder

        def score(window: int, queries: int, number: int) -> None:
            builder.commands += commands.scoring(window, queries, number)

        def mix(rows: RowSet) -> None:
            self._write_mixed(rows)
            builder.commands += commands.mixing(rows.window, rows.queries)

        def behind(rows: RowSet, before: RowSet | None, last: bool) -> None:
            self.positions.give(rows, vectors)
            if before is not None:
                mix(before)
            if last:
                mix(rows)

        def blocks() -> Iterator[CodeBlock]:
            sets = list(self._sets(head))
            for number, rows in enumerate(sets):
                count = len(commands.scores(rows.window, rows.queries))
                steps = [partial(score, rows.window, rows.queries, step) for step in range(count)]
                before = sets[number - 1] if number else None
                last = number == len(sets) - 1
                words = self._words(head, commands.books)
                yield CodeBlock(
                    words=rows.queries * len(words),
                    tokens=rows.queries,
                    beats=len(words) * builder.preset.rows // 2 // builder.beat,
                    feed=partial(self._stream, rows, words),
                    steps=[*steps, partial(behind, rows, before, last)],
                    period=count,
                )

        run_blocks(builder, blocks())
        builder.roll_long()

    def _words(self, head: int, books: list[Levels]) -> NDArray[np.int64]:
        """Bytes from a token's first code of q to the words that SCORES takes of it, group by group, run by run."""
        rows = self.builder.preset.rows
        words = []
        for block in self.heads.row_blocks(head):
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

    def _write_mixed(self, rows: RowSet) -> None:
        """WRITE the results of a set."""
        width = self.builder.preset.columns * 2
        token = rows.window * self.tokens + rows.first
        self.builder.write_loops(
            Port.RESULTS,
            self.out.address + token * self.out.pitch + rows.head * self.heads.width * 2,
            (width // self.builder.beat, self.builder.beat),
            (rows.queries, self.out.pitch),
            (self.heads.width * 2 // width, width),
        )

    def _decomposed(self, bias: DecomposedBias) -> None:
        """Head by head: a dense layer from q to the products with both tables, then the head's sets."""
        builder, preset = self.builder, self.builder.preset
        longest = 2 * max(bias.rows, bias.columns) - 1
        width = -(-longest // preset.columns) * preset.columns
        tokens = self.windows * self.tokens
        room = builder.take_near_first(tokens * width * 4)
        vectors = Vectors(room, width, 2 * bias.rows - 1, 2 * bias.columns - 1)
        for head in range(self.attention.heads):
            layer = self.positions.layer(bias, head, width, self.q.planes)
            first_tile = head * self.heads.width // TILE_CHANNELS
            codes = replace(self.q, address=self.q.address + self.q.plane(first_tile, 0))
            choice = replace(kept_blocks(preset, tokens, layer.words), kept=tokens)
            run_kept(PassCommands(builder, layer), codes, choice, Results(vectors.address, width * 4))
            builder.wait()
            self._run_sets(head, vectors)
            builder.wait()
        builder.give_back(vectors.address)
