"""Rows in block RAM, and the engine that reads them word by word."""

from typing import Any

from amaranth.hdl import Array, Elaboratable, Module, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.ecp5.block_ram import MODES, BlockRam
from hdl.pipeline import delay

BANK_WORDS = 2048
"""Words of the deepest block RAM shape; deeper memories are several banks and a multiplexer."""


class RowMemory(wiring.Component):
    """`depth` words (a power of two) of `width` bits: one write port, one read port, in as few DP16KD as they fit.

    The word at `read_address` is on `read_data` `latency(depth)` cycles later: 2, or 3 with more than 2,048 words. As
    with BlockRam, a word must not be read in the cycle in which it is written.
    Raises ValueError when depth is no power of two.
    """

    def __init__(self, *, width: int, depth: int) -> None:
        if depth < 2 or depth & (depth - 1):
            nearest = max(2, 1 << max(0, depth - 1).bit_length())
            raise ValueError(f"depth={depth} must be a power of two from 2 up; nearest valid value: {nearest}")
        self._width, self._depth = width, depth
        super().__init__(
            {
                "write_enable": In(1),
                "write_address": In(range(depth)),
                "write_data": In(width),
                "read_address": In(range(depth)),
                "read_data": Out(width),
            }
        )

    @staticmethod
    def latency(depth: int) -> int:
        """Cycles from an address to its word."""
        return BlockRam.LATENCY + (depth > BANK_WORDS)

    def elaborate(self, platform: Any) -> Elaboratable:
        """Slices side by side, banks one above the other."""
        m = Module()
        bank_depth = min(self._depth, BANK_WORDS)
        slice_width = max(width for width, address_bits in MODES.items() if 1 << address_bits >= bank_depth)
        address_bits = (bank_depth - 1).bit_length()
        write_bank, read_bank = self.write_address[address_bits:], self.read_address[address_bits:]
        words = []
        for bank in range(self._depth // bank_depth):
            words.append(Signal(self._width, name=f"word{bank}"))
            for low in range(0, self._width, slice_width):
                width = min(slice_width, self._width - low)
                m.submodules[f"bank{bank}_bit{low}"] = ram = BlockRam(width=width, depth=bank_depth)
                m.d.comb += [
                    ram.write_enable.eq(self.write_enable & (write_bank == bank)),
                    ram.write_address.eq(self.write_address[:address_bits]),
                    ram.write_data.eq(self.write_data[low : low + width]),
                    ram.read_address.eq(self.read_address[:address_bits]),
                    words[bank][low : low + width].eq(ram.read_data),
                ]
        if len(words) == 1:
            m.d.comb += self.read_data.eq(words[0])
            return m
        selected = Signal(range(len(words)))
        chosen = Signal(self._width, reset_less=True)
        m.d.comb += selected.eq(read_bank)
        m.d.sync += chosen.eq(Array(words)[delay(m, selected, BlockRam.LATENCY, "bank")])
        m.d.comb += self.read_data.eq(chosen)
        return m


class RowReader(wiring.Component):
    """Takes a row's `fact` and its number of words from `i`, then reads so many words, one per cycle with `enable`.

    `read` marks a word: `address`, `fact`, `first` and `last` (of the row) belong to it. Words lie in the order of
    their writing; the address wraps at `depth`. Rows follow each other without a gap.
    """

    def __init__(self, fact: Any, *, row_words: int, depth: int) -> None:
        self._fact, self._row_words = fact, row_words
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
