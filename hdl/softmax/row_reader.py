"""The engine that reads rows out of a memory, word by word."""

from typing import Any

from amaranth.hdl import Elaboratable, Module, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out


class RowReader(wiring.Component):
    """Takes a row's `fact` and its number of words from `i`, then reads so many words, one per cycle with `enable`.

    `read` marks a word: `address`, `fact`, `first` and `last` (of the row) belong to it. Words lie in the order of
    their writing; the address wraps at `depth`. Rows follow each other without a gap.
    Raises ValueError when depth is no power of two: the address would not wrap by itself.
    """

    def __init__(self, fact: Any, *, row_words: int, depth: int) -> None:
        if depth < 2 or depth & (depth - 1):
            nearest = max(2, 1 << max(0, depth - 1).bit_length())
            raise ValueError(f"depth={depth} must be a power of two from 2 up; nearest valid value: {nearest}")
        self._row_words = row_words
        row = data.StructLayout({"fact": fact, "words": range(row_words + 1)})
        super().__init__(
            {
                "i": In(stream.Signature(row)),
                "enable": In(1),
                "read": Out(1),
                "address": Out(range(depth)),
                "fact": Out(fact),
                "first": Out(1),
                "last": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Elaboratable:
        """The row at hand in registers; the next is taken with its last word."""
        m = Module()
        active = Signal()
        left = Signal(unsigned(self._row_words.bit_length()), reset_less=True)
        m.d.comb += [
            self.read.eq(active & self.enable),
            self.i.ready.eq(~active | (self.read & self.last)),
        ]
        with m.If(self.read):
            m.d.sync += [
                self.address.eq(self.address + 1),
                self.first.eq(0),
                left.eq(left - 1),
                self.last.eq(left == 2),
                active.eq(~self.last),
            ]
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [
                active.eq(1),
                self.fact.eq(self.i.payload.fact),
                left.eq(self.i.payload.words),
                self.first.eq(1),
                self.last.eq(self.i.payload.words == 1),
            ]
        return m
