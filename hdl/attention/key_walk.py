"""Which pixel each lane's key is, word by word of a row of keys."""

from typing import Any

from amaranth.hdl import Elaboratable, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hdl.parameters import require

SIDE_MAX = 64
"""Most rows and columns of pixels."""

SIDE_BITS = (SIDE_MAX - 1).bit_length()


class KeyWalk(wiring.Component):
    """Row and column of the keys number n * lanes to n * lanes + lanes - 1 of a map of `columns` columns, n = 0, 1, ...

    `start` takes `columns`, 1..64, and sets n = 0; `o_busy` until lanes + `PREPARATION` = 3 cycles later. Then `step`
    goes on to the next n, with `rewind` to n = 0. Keys from row 64 on have no meaning.

    A division by the columns, done by counting: a walker passes the keys of the first word, leaves each lane its own,
    and stands in the end at what a step adds.
    Raises ValueError naming the parameter, its limit and the nearest valid value.
    """

    PREPARATION = 3

    def __init__(self, *, lanes: int = 8) -> None:
        self._lanes = require("lanes", lanes, range(1, SIDE_MAX + 1), f"in 1..{SIDE_MAX}")
        places = data.ArrayLayout(unsigned(SIDE_BITS), lanes)
        super().__init__(
            {
                "start": In(1),
                "columns": In(range(SIDE_MAX + 1)),
                "o_busy": Out(1),
                "step": In(1),
                "rewind": In(1),
                "row": Out(places),
                "column": Out(places),
            }
        )

    @staticmethod
    def model(number: int, *, lanes: int, columns: int) -> list[tuple[int, int]]:
        """(row, column) of the lanes' keys of word `number`."""
        return [divmod(number * lanes + lane, columns) for lane in range(lanes)]

    def elaborate(self, platform: Any) -> Elaboratable:
        """The first word's places form a chain that the walker fills from its end."""
        m = Module()
        columns = Signal.like(self.columns, reset_less=True)
        walk_row, walk_column = Signal(SIDE_BITS, reset_less=True), Signal(SIDE_BITS, reset_less=True)
        left = Signal(range(self._lanes + self.PREPARATION + 1))
        walking = left > self.PREPARATION
        # What a step adds to a column, before and behind the end of a row, and to a row.
        within, beyond = Signal(SIDE_BITS, reset_less=True), Signal(signed(SIDE_BITS + 1), reset_less=True)
        rows, rows_and_one = Signal(SIDE_BITS, reset_less=True), Signal(SIDE_BITS, reset_less=True)
        m.d.comb += self.o_busy.eq(left != 0)
        m.d.sync += [
            within.eq(walk_column),
            beyond.eq(walk_column - columns),
            rows.eq(walk_row),
            rows_and_one.eq(walk_row + 1),
        ]
        with m.If(left != 0):
            m.d.sync += left.eq(left - 1)
        with m.If(walking):
            m.d.sync += walk_column.eq(walk_column + 1)
            with m.If(walk_column == columns - 1):
                m.d.sync += [walk_column.eq(0), walk_row.eq(walk_row + 1)]
        with m.If(self.start):
            m.d.sync += [
                columns.eq(self.columns),
                left.eq(self._lanes + self.PREPARATION),
                walk_row.eq(0),
                walk_column.eq(0),
            ]
        first_row, first_column = walk_row, walk_column
        for lane in reversed(range(self._lanes)):
            row, column = self.row[lane], self.column[lane]
            own_row, own_column = (
                Signal(SIDE_BITS, name=f"{name}{lane}", reset_less=True) for name in ("first_row", "first_column")
            )
            behind = Signal(signed(SIDE_BITS + 2), name=f"behind{lane}")
            m.d.comb += behind.eq(column + beyond)
            wraps = ~behind[-1]
            with m.If(walking):
                m.d.sync += [own_row.eq(first_row), own_column.eq(first_column)]
            with m.If(self.step & ~self.rewind):
                m.d.sync += column.eq(Mux(wraps, behind, column + within))
                m.d.sync += row.eq(Mux(wraps, row + rows_and_one, row + rows))
            with m.Elif(self.step | self.o_busy):
                m.d.sync += [row.eq(own_row), column.eq(own_column)]
            first_row, first_column = own_row, own_column
        return m
