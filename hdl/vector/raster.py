"""Walks a 3x3 window over a map whose pixels arrive in rows: when to take a pixel, what is outside the map."""

from typing import Any

from amaranth.hdl import Cat, Const, Elaboratable, Module, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from sim.machine.settings import MAP_COLUMNS_MIN, MAP_ROWS_MAX


def map_layout(columns: int) -> data.StructLayout:
    """Size and stride of a map of at most `columns` columns; rows and columns are counted from 0."""
    return data.StructLayout(
        {"last_row": range(MAP_ROWS_MAX), "last_column": range(columns), "stride_two": unsigned(1)}
    )


def map_setting(rows: int, columns: int, stride: int, *, limit: int) -> dict[str, int]:
    """A map_layout of a map. Raises ValueError for other than 1..1024 rows or 3..`limit` columns."""
    for name, value, low, high in (("rows", rows, 1, MAP_ROWS_MAX), ("columns", columns, MAP_COLUMNS_MIN, limit)):
        if not low <= value <= high:
            nearest = min(max(value, low), high)
            raise ValueError(f"a map with {name}={value} must have {low}..{high}; nearest valid value: {nearest}")
    return {"last_row": rows - 1, "last_column": columns - 1, "stride_two": stride - 1}


class Raster(wiring.Component):
    """One step per cycle over the pixels of a map, and `columns` + 1 steps more for the last windows.

    Step n takes pixel n (counted in rows) and completes the window centred on pixel n - columns - 1. A pass begins,
    with `o_begin`, when `loaded` and not `hold`; its first step is one cycle later at the earliest. A step needs
    `room`, and a pixel (`pixel_valid`, answered by `pixel_ready`) as long as there are pixels left. `i_map` is ready
    between passes and used by those after it.

    In the cycle of a step: `o_column` is the column of its pixel, `o_emit` says that the centre is on the stride's
    grid, `o_masked` has a bit for each tap (rows first) that lies outside the map.
    """

    def __init__(self, *, columns: int) -> None:
        self._columns = columns
        super().__init__(
            {
                "i_map": In(stream.Signature(map_layout(columns))),
                "hold": In(1),
                "loaded": In(1),
                "room": In(1),
                "pixel_valid": In(1),
                "pixel_ready": Out(1),
                "o_begin": Out(1),
                "o_step": Out(1),
                "o_emit": Out(1),
                "o_column": Out(range(columns)),
                "o_masked": Out(9),
            }
        )

    @staticmethod
    def steps(rows: int, columns: int) -> int:
        """Steps of a pass."""
        return rows * columns + columns + 1

    def elaborate(self, platform: Any) -> Elaboratable:
        """Two positions: of the pixel that arrives, and of the centre that follows it."""
        m = Module()
        size = Signal(map_layout(self._columns))
        active = Signal()
        flushing = Signal()
        second_row = Signal()
        following = Signal()
        column = Signal(range(self._columns))
        row = Signal(range(MAP_ROWS_MAX))
        centre_column = Signal(range(self._columns))
        centre_row = Signal(range(MAP_ROWS_MAX))
        at_right = Signal()
        at_bottom = Signal()
        step = Signal()
        m.d.comb += [
            self.i_map.ready.eq(~active),
            self.o_begin.eq(~active & self.loaded & ~self.hold),
            step.eq(active & self.room & (flushing | self.pixel_valid)),
            self.pixel_ready.eq(active & self.room & ~flushing),
            self.o_step.eq(step),
            self.o_column.eq(column),
            at_right.eq(centre_column == size.last_column),
            at_bottom.eq(centre_row == size.last_row),
            self.o_emit.eq(step & following & ~(size.stride_two & (centre_column[0] | centre_row[0]))),
        ]
        left, top = centre_column == 0, centre_row == 0
        m.d.comb += self.o_masked.eq(
            Cat(
                (top, Const(0, 1), at_bottom)[tap_row] | (left, Const(0, 1), at_right)[tap_column]
                for tap_row in range(3)
                for tap_column in range(3)
            )
        )
        with m.If(self.i_map.valid & self.i_map.ready):
            m.d.sync += size.eq(self.i_map.payload)
        with m.If(self.o_begin):
            m.d.sync += [active.eq(1), flushing.eq(0), following.eq(0), second_row.eq(0), column.eq(0), row.eq(0)]
            m.d.sync += [centre_column.eq(0), centre_row.eq(0)]
        with m.If(step):
            m.d.sync += column.eq(column + 1)
            with m.If(column == size.last_column):
                m.d.sync += [column.eq(0), row.eq(row + 1), second_row.eq(1)]
                with m.If(row == size.last_row):
                    m.d.sync += flushing.eq(1)
            # The first pixel of the second row has just arrived: the next completes the first window.
            with m.If(second_row):
                m.d.sync += following.eq(1)
            with m.If(following):
                m.d.sync += centre_column.eq(centre_column + 1)
                with m.If(at_right):
                    m.d.sync += [centre_column.eq(0), centre_row.eq(centre_row + 1)]
                    with m.If(at_bottom):
                        m.d.sync += active.eq(0)
        return m
