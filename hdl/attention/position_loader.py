"""Beats of position tables and vectors into the memories of the lanes, two values per cycle."""

from typing import Any

from amaranth.hdl import Cat, Elaboratable, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.attention.key_walk import SIDE_BITS, SIDE_MAX
from sim.contract.constants import WIDE_BITS

PAIR_BITS = 2 * WIDE_BITS
HALVES = 2
"""Vectors of a query are read while those of the next are loaded."""


class PositionLoader(wiring.Component):
    """Writes what a command of PositionUnit brings; even values in the low half of a word, odd ones in the high.

    `start` takes the sizes: with `static` one table of `rows` lines of `columns` values, else for each of `queries` a
    vector of 2 * rows - 1 values, then one of 2 * columns - 1. Lines and vectors begin with a beat.

    A word is written (`o_rows`, `o_columns`: into which memory) in the cycle in which its beat is there, at `o_line`
    (table) or `o_half` (vectors) and `o_pair`. `o_filled`: the table, or the vectors of a query, end with this word.
    `emptied` frees the half of a query. A word per cycle: rows * ceil(columns / 2) or rows + columns cycles.
    """

    def __init__(self, *, lanes: int) -> None:
        self._lanes = lanes
        side, pairs = range(SIDE_MAX + 1), range(SIDE_MAX)
        super().__init__(
            {
                "start": In(1),
                "static": In(1),
                "rows": In(side),
                "columns": In(side),
                "queries": In(16),
                "emptied": In(1),
                "i": In(stream.Signature(data.ArrayLayout(signed(WIDE_BITS), lanes))),
                "o_rows": Out(1),
                "o_columns": Out(1),
                "o_line": Out(unsigned(SIDE_BITS)),
                "o_half": Out(1),
                "o_pair": Out(pairs),
                "o_word": Out(PAIR_BITS),
                "o_filled": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Elaboratable:
        """A line or vector is counted in pairs, whose low bits say where in a beat they are."""
        m = Module()
        static, second = Signal(reset_less=True), Signal()
        last_of_rows, last_of_columns = Signal(SIDE_BITS, reset_less=True), Signal(SIDE_BITS, reset_less=True)
        # Lines of a table or queries, less one.
        left, loading = Signal(16, reset_less=True), Signal()
        full = Signal(range(HALVES + 1))
        write, ends, done = Signal(), Signal(), Signal()
        pairs_per_beat = self._lanes // 2
        place = self.o_pair[: (pairs_per_beat - 1).bit_length()]
        m.d.comb += [
            self.i.ready.eq(loading & (full != HALVES) & (ends | (place == pairs_per_beat - 1))),
            write.eq(loading & (full != HALVES) & self.i.valid),
            ends.eq(self.o_pair == Mux(static | second, last_of_columns, last_of_rows)),
            done.eq(write & ends & (static | second)),
            self.o_rows.eq(write & (static | ~second)),
            self.o_columns.eq(write & ~static & second),
            self.o_word.eq(Cat(self.i.payload).word_select(place, PAIR_BITS)),
            self.o_filled.eq(done & (~static | (left == 0))),
        ]
        m.d.sync += full.eq(full + (self.o_filled & ~static) - self.emptied)
        with m.If(write):
            m.d.sync += self.o_pair.eq(Mux(ends, 0, self.o_pair + 1))
            m.d.sync += second.eq(~static & (second ^ ends))
        with m.If(done):
            m.d.sync += [left.eq(left - 1), self.o_line.eq(self.o_line + 1), self.o_half.eq(self.o_half ^ ~static)]
            with m.If(left == 0):
                m.d.sync += loading.eq(0)
        with m.If(self.start):
            m.d.sync += [
                static.eq(self.static),
                last_of_rows.eq(self.rows - 1),
                last_of_columns.eq(Mux(self.static, (self.columns - 1) >> 1, self.columns - 1)),
                left.eq(Mux(self.static, self.rows, self.queries) - 1),
                self.o_line.eq(0),
                loading.eq(1),
            ]
        return m
