"""One lane of the position unit: its copy of the values, and the sum of the two that a pair of pixels picks."""

from typing import Any

from amaranth.hdl import Cat, Elaboratable, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.attention.key_walk import SIDE_BITS, SIDE_MAX
from hdl.attention.position_loader import HALVES, PAIR_BITS
from hdl.ecp5.block_memory import BlockMemory
from hdl.ecp5.block_ram import BlockRam
from hdl.pipeline import delay
from hdl.softmax.geometry import BIAS_BITS
from sim.contract.constants import WIDE_BITS

VECTOR_WORDS = HALVES * SIDE_MAX


def rows_words(window_bits: int) -> int:
    """Words of the rows memory: two vectors, or a table of 2**window_bits lines as long."""
    return max(VECTOR_WORDS, 1 << (2 * window_bits - 1))


class PositionLane(wiring.Component):
    """Bias of a row difference and a column difference, one pair per cycle, `LATENCY` = 5 cycles later.

    With `static` rows memory holds a table of lines of 2**window_bits values, by the differences without sign. Else the
    memories of rows and of columns hold two vectors each and `half` picks one; the differences are then 0 or more.
    `static` and `half` belong to the differences. 3 cycles later `with_row` and `with_column` say which values count.
    Two values are a word, the even one low; see PositionLoader.
    """

    LATENCY = 5
    COUNTS_AFTER = 3

    def __init__(self, *, window_bits: int) -> None:
        self._window_bits = window_bits
        difference = signed(SIDE_BITS + 2)
        super().__init__(
            {
                "write_rows": In(1),
                "write_columns": In(1),
                "write_address": In(range(rows_words(window_bits))),
                "write_word": In(PAIR_BITS),
                "row": In(difference),
                "column": In(difference),
                "static": In(1),
                "half": In(1),
                "with_row": In(1),
                "with_column": In(1),
                "o": Out(signed(BIAS_BITS)),
            }
        )

    def elaborate(self, platform: Any) -> Elaboratable:
        """Addresses, memories, the half of either word, the sum: a register each."""
        m = Module()
        down, along = (Mux(value[-1], -value, value)[:SIDE_BITS] for value in (self.row, self.column))
        of_table = Cat(along[1 : self._window_bits], down[: self._window_bits])
        of_row = Cat(self.row[1 : SIDE_BITS + 1], self.half)
        of_column = Cat(self.column[1 : SIDE_BITS + 1], self.half)
        addends = []
        for name, depth, enable, address, odd, counts in (
            (
                "rows",
                rows_words(self._window_bits),
                self.write_rows,
                Mux(self.static, of_table, of_row),
                Mux(self.static, along[0], self.row[0]),
                self.with_row,
            ),
            ("columns", VECTOR_WORDS, self.write_columns, of_column, self.column[0], self.with_column),
        ):
            m.submodules[name] = memory = BlockMemory(width=PAIR_BITS, depth=depth)
            read_address, is_odd = (
                Signal(range(depth), name=f"{name}_address", reset_less=True),
                Signal(name=f"{name}_odd", reset_less=True),
            )
            value = Signal(signed(WIDE_BITS), name=f"{name}_value", reset_less=True)
            half_of_word = delay(m, is_odd, BlockRam.LATENCY, f"{name}_half")
            m.d.sync += [
                read_address.eq(address),
                is_odd.eq(odd),
                value.eq(Mux(counts, memory.read_data.word_select(half_of_word, WIDE_BITS), 0)),
            ]
            m.d.comb += [
                memory.write_enable.eq(enable),
                memory.write_address.eq(self.write_address),
                memory.write_data.eq(self.write_word),
                memory.read_address.eq(read_address),
            ]
            addends.append(value)
        m.d.sync += self.o.eq(addends[0] + addends[1])
        return m
