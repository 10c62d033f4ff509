"""Position biases for the rows of the softmax, from a table or from vectors of the queries.

    i --> loader --> rows memory    \\
                 --> columns memory --> a value of either per lane --> sum --> o
    i_command --> key walk, query  /

The bias of a pair of pixels hangs on the difference of their rows and that of their columns. Every lane has a copy of
the values, so that any key may stand in any lane: rows of keys are not whole words of lanes.
"""

from typing import Any

import numpy as np
from amaranth.hdl import Cat, Elaboratable, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from numpy.typing import NDArray

from hdl.attention.key_walk import SIDE_BITS, KeyWalk
from hdl.attention.loops import Loops
from hdl.attention.position_lane import PositionLane, rows_words
from hdl.attention.position_loader import HALVES, PositionLoader
from hdl.parameters import require
from hdl.pipeline import delay
from hdl.softmax.geometry import BIAS_BITS
from hdl.vector.credit_fifo import CreditFifo
from sim.contract.attention import MAX_KEYS, decomposed_bias, static_bias
from sim.contract.constants import WIDE_BITS
from sim.machine.settings import PositionKind

LANES = (2, 4, 8, 16, 32)
WINDOWS = (2, 4, 8, 16, 32, 64)
FIELD_BITS = 16
"""Of the number of a query, and of their count."""


class PositionUnit(wiring.Component):
    """Biases of `queries` rows of rows * columns keys, numbering queries from `first_query`: query i is the pixel
    (i // columns, i mod columns), keys likewise ("Position unit" of docs/machine.md). Bit for bit
    sim.contract.attention.static_bias and decomposed_bias.

    - `i_command`: taken when all rows of the one before are on their way. rows and columns are 1..64 (kind NONE:
      1..255), rows * columns at most `keys`, all queries pixels (kind NONE: any).
    - `i`: beats of `lanes` values, lines and vectors padded to whole beats. NONE: none. STATIC: `rows` lines of
      `columns` values, at most `window` each, by row and column difference. DECOMPOSED: per query 2 * rows - 1
      values, by query less key row plus rows - 1, then 2 * columns - 1 likewise.
    - `o`: per query ceil(rows * columns / lanes) words; lanes behind the last key have no meaning.
    - `o_idle`: no command is active and every word has been taken.

    Throughput: one word per cycle. A command begins with max(lanes + 3, rows, first_query // columns) + 3 cycles.
    Loading goes on beside that: rows * ceil(columns / 2) cycles for a table, rows + columns for the vectors of a query.
    Those of the next query are loaded while a row goes out, so a row takes max(words, rows + columns) cycles.
    Latency from the last value of a table or of the first vectors to the first word: `LATENCY` = 9 cycles.

    lanes: 2, 4, 8, 16 or 32. keys: most keys of a row. window: most rows and columns of a table, a power of two.
    Memory: per lane window**2 / 2 words (at least 128) and 128 words of 32 bits: two DP16KD up to window = 32.
    Raises ValueError naming the parameter, its limit and the nearest valid value.
    """

    LATENCY = 9
    STAGES = 2 + PositionLane.LATENCY

    def __init__(self, *, lanes: int = 8, keys: int = MAX_KEYS, window: int = 32) -> None:
        self.lanes = require("lanes", lanes, LANES, f"one of {LANES}")
        self.keys = require("keys", keys, range(1, MAX_KEYS + 1), f"in 1..{MAX_KEYS}")
        self._window_bits = require("window", window, WINDOWS, f"one of {WINDOWS}").bit_length() - 1
        command = data.StructLayout(
            {
                "kind": unsigned(2),
                "rows": unsigned(8),
                "columns": unsigned(8),
                "first_query": unsigned(FIELD_BITS),
                "queries": unsigned(FIELD_BITS),
            }
        )
        super().__init__(
            {
                "i_command": In(stream.Signature(command)),
                "i": In(stream.Signature(data.ArrayLayout(signed(WIDE_BITS), lanes))),
                "o": Out(stream.Signature(data.ArrayLayout(signed(BIAS_BITS), lanes))),
                "o_idle": Out(1),
            }
        )

    @staticmethod
    def model(
        kind: int,
        *,
        rows: int,
        columns: int,
        first_query: int,
        queries: int,
        by_row: NDArray[np.int16] | None = None,
        by_column: NDArray[np.int16] | None = None,
    ) -> NDArray[np.int32]:
        """Biases int32 (queries, rows * columns) of a command.

        by_row: int16 (rows, columns), the table, or (queries, 2 * rows - 1). by_column: (queries, 2 * columns - 1).
        """
        if kind == PositionKind.STATIC and by_row is not None:
            return static_bias(by_row, first_query, queries).astype(np.int32)
        if kind == PositionKind.DECOMPOSED and by_row is not None and by_column is not None:
            return decomposed_bias(by_row, by_column, first_query)
        return np.zeros((queries, rows * columns), np.int32)

    def elaborate(self, platform: Any) -> Elaboratable:
        """Prepare, then rows: loops over words and queries, as long as a row has its values and `o` a place."""
        m = Module()
        command = self.i_command.payload
        kind = Signal(PositionKind, reset_less=True)
        m.submodules.walk = walk = KeyWalk(lanes=self.lanes)
        m.submodules.loader = loader = PositionLoader(lanes=self.lanes)
        m.submodules.loops = loops = Loops([-(-self.keys // self.lanes), (1 << FIELD_BITS) - 1])
        m.submodules.fifo = fifo = CreditFifo(
            data.ArrayLayout(signed(BIAS_BITS), self.lanes), depth=self.STAGES + 1 + CreditFifo.TURNAROUND
        )
        lanes = [PositionLane(window_bits=self._window_bits) for _ in range(self.lanes)]
        for number, lane in enumerate(lanes):
            m.submodules[f"lane{number}"] = lane
        wiring.connect(m, fifo.o, wiring.flipped(self.o))
        wiring.connect(m, wiring.flipped(self.i), loader.i)
        taken, issue, row_ends = Signal(), Signal(), Signal()
        running = Signal()
        m.d.comb += [
            walk.start.eq(taken),
            walk.columns.eq(command.columns),
            # A cycle behind: many registers hang on them.
            walk.step.eq(delay(m, issue, 1, "step", reset_less=False)),
            walk.rewind.eq(delay(m, row_ends, 1, "rewind", reset_less=False)),
            loader.start.eq(taken & (command.kind != PositionKind.NONE)),
            loader.static.eq(command.kind == PositionKind.STATIC),
            loader.rows.eq(command.rows),
            loader.columns.eq(command.columns),
            loader.queries.eq(command.queries),
            issue.eq(running & self._values_are_there(m, taken, kind, loader, row_ends) & fifo.o_room),
            row_ends.eq(issue & loops.ends[0]),
            # Two cycles behind, so that what is written never meets what is read.
            loader.emptied.eq(delay(m, row_ends & (kind == PositionKind.DECOMPOSED), 2, "emptied", reset_less=False)),
            loops.step.eq(issue),
            fifo.spend.eq(issue),
            fifo.store.eq(delay(m, issue, self.STAGES, "issue", reset_less=False)),
        ]
        with m.If(taken):
            m.d.sync += kind.eq(command.kind)
        query_row, query_column, idle = self._control(m, walk, loops, kind, (taken, running, issue, row_ends))
        m.d.comb += self.o_idle.eq(idle & fifo.o_empty)

        half = Signal()
        with m.If(row_ends & (kind == PositionKind.DECOMPOSED)):
            m.d.sync += half.eq(~half)
        # By the time values are there another command may have begun.
        kind_late = delay(m, kind, 2 + PositionLane.COUNTS_AFTER, "kind")
        static = delay(m, kind == PositionKind.STATIC, 1, "static")
        query_row, query_column = delay(m, query_row, 1, "query_row"), delay(m, query_column, 1, "query_column")
        with_row, with_column = Signal(), Signal()
        m.d.comb += [with_row.eq(kind_late != PositionKind.NONE), with_column.eq(kind_late == PositionKind.DECOMPOSED)]
        self._write(m, loader, kind, lanes)
        for number, lane in enumerate(lanes):
            m.d.sync += [
                lane.row.eq(query_row - walk.row[number]),
                lane.column.eq(query_column - walk.column[number]),
            ]
            m.d.comb += [
                lane.static.eq(static),
                lane.half.eq(delay(m, half, 2, f"half{number}")),
                lane.with_row.eq(with_row),
                lane.with_column.eq(with_column),
                fifo.word[number].eq(lane.o),
            ]
        return m

    def _control(
        self, m: Module, walk: KeyWalk, loops: Loops, kind: Any, events: tuple[Signal, ...]
    ) -> tuple[Signal, Signal, Any]:
        """Phases of a command. (row, column of the query, in DECOMPOSED with what keeps differences positive; idle)."""
        taken, running, issue, row_ends = events
        command = self.i_command.payload
        rows, columns = Signal(8, reset_less=True), Signal(8, reset_less=True)
        # Products and quotients by counting: rows * columns, and the first query by columns.
        rows_left, keys = Signal(8), Signal(range(self.keys + 1), reset_less=True)
        remainder, quotient = Signal(FIELD_BITS, reset_less=True), Signal(SIDE_BITS, reset_less=True)
        queries = Signal(FIELD_BITS, reset_less=True)
        query_row, query_column, begin, end = (
            Signal(SIDE_BITS + 1, name=name, reset_less=True) for name in ("query_row", "query_column", "begin", "end")
        )
        # What keeps differences positive, from registers of its own: it is there long before PREPARE.
        last_row, last_column = Signal(8, reset_less=True), Signal(8, reset_less=True)
        above, before = Signal(8, reset_less=True), Signal(8, reset_less=True)
        counting, divides = Signal(), Signal()
        decomposed = kind == PositionKind.DECOMPOSED
        m.d.comb += divides.eq((kind != PositionKind.NONE) & (remainder >= columns))
        words = Signal(loops.counts.loop0.shape(), reset_less=True)
        m.d.sync += words.eq((keys + self.lanes - 1) >> (self.lanes - 1).bit_length())
        m.d.comb += [loops.counts.loop0.eq(words), loops.counts.loop1.eq(queries)]
        m.d.sync += [
            last_row.eq(rows - 1),
            last_column.eq(columns - 1),
            above.eq(Mux(decomposed, last_row, 0)),
            before.eq(Mux(decomposed, last_column, 0)),
        ]
        with m.If(rows_left != 0):
            m.d.sync += [keys.eq(keys + columns), rows_left.eq(rows_left - 1)]
        with m.If(counting & divides):
            m.d.sync += [remainder.eq(remainder - columns), quotient.eq(quotient + 1)]
        with m.FSM() as phases:
            with m.State("IDLE"):
                m.d.comb += [self.i_command.ready.eq(1), taken.eq(self.i_command.valid)]
                with m.If(taken):
                    m.d.sync += [
                        rows.eq(command.rows),
                        columns.eq(command.columns),
                        rows_left.eq(command.rows),
                        remainder.eq(command.first_query),
                        queries.eq(command.queries),
                        keys.eq(0),
                        quotient.eq(0),
                    ]
                    m.next = "COUNT"
            with m.State("COUNT"):
                m.d.comb += counting.eq(1)
                with m.If((rows_left == 0) & ~divides & ~walk.o_busy):
                    m.next = "PREPARE"
            with m.State("PREPARE"):
                m.d.comb += loops.start.eq(1)
                m.d.sync += [
                    query_row.eq(quotient + above),
                    query_column.eq(remainder + before),
                    begin.eq(before),
                    end.eq(last_column + before),
                ]
                m.next = "ROWS"
            with m.State("ROWS"):
                m.d.comb += running.eq(1)
                with m.If(row_ends):
                    m.d.sync += query_column.eq(query_column + 1)
                    with m.If(query_column == end):
                        m.d.sync += [query_column.eq(begin), query_row.eq(query_row + 1)]
                with m.If(issue & loops.ends[1]):
                    m.next = "IDLE"
        return query_row, query_column, phases.ongoing("IDLE")

    @staticmethod
    def _values_are_there(m: Module, taken: Signal, kind: Any, loader: PositionLoader, row_ends: Signal) -> Any:
        """The values of the row that is next have been loaded."""
        loaded, queries = Signal(), Signal(range(HALVES + 1))
        m.d.sync += queries.eq(
            queries + (loader.o_columns & loader.o_filled) - (row_ends & (kind == PositionKind.DECOMPOSED))
        )
        with m.If(taken):
            m.d.sync += loaded.eq(0)
        with m.Elif(loader.o_filled):
            m.d.sync += loaded.eq(1)
        return (kind == PositionKind.NONE) | Mux(kind == PositionKind.STATIC, loaded, queries != 0)

    def _write(self, m: Module, loader: PositionLoader, kind: Any, lanes: list[PositionLane]) -> None:
        """What is loaded goes into every lane, two registers later: behind the reads of the command before."""
        address = Signal(range(rows_words(self._window_bits)))
        of_table = Cat(loader.o_pair[: self._window_bits - 1], loader.o_line[: self._window_bits])
        m.d.comb += address.eq(Mux(kind == PositionKind.STATIC, of_table, Cat(loader.o_pair, loader.o_half)))
        enables = Signal(2)
        m.d.comb += enables.eq(Cat(loader.o_rows, loader.o_columns))
        enables = delay(m, enables, 2, "write_enables", reset_less=False)
        address, word = delay(m, address, 2, "write_address"), delay(m, loader.o_word, 2, "write_word")
        for lane in lanes:
            m.d.comb += [
                lane.write_rows.eq(enables[0]),
                lane.write_columns.eq(enables[1]),
                lane.write_address.eq(address),
                lane.write_word.eq(word),
            ]
