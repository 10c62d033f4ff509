"""Sixteen words of distributed RAM with an asynchronous read port."""

from typing import Any

from amaranth.hdl import Cat, ClockSignal, Const, Elaboratable, Instance, Module, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from hdl.ecp5.platform import is_ecp5

WORDS = 16
CELL_BITS = 4
"""Word width of one TRELLIS_DPR16X4."""


class DistributedRam(wiring.Component):
    """16 words of `width` bits: `read_data` is the word at `read_address` in the same cycle.

    A write shows from the next cycle on. On ECP5 ceil(width / 4) TRELLIS_DPR16X4 cells, instantiated: synthesis
    would infer the same cells, and take most of an hour for the thousands of them in a large array.
    Raises ValueError when width is below 1.
    """

    def __init__(self, *, width: int) -> None:
        if width < 1:
            raise ValueError(f"width={width} must be at least 1; nearest valid value: 1")
        self._width = width
        super().__init__(
            {
                "write_enable": In(1),
                "write_address": In(range(WORDS)),
                "write_data": In(width),
                "read_address": In(range(WORDS)),
                "read_data": Out(width),
            }
        )

    def elaborate(self, platform: Any) -> Elaboratable:
        """Portable Amaranth memory, or TRELLIS_DPR16X4 cells."""
        m = Module()
        if not is_ecp5(platform):
            m.submodules.memory = storage = memory.Memory(shape=self._width, depth=WORDS, init=[])
            write, read = storage.write_port(), storage.read_port(domain="comb")
            m.d.comb += [
                write.en.eq(self.write_enable),
                write.addr.eq(self.write_address),
                write.data.eq(self.write_data),
                read.addr.eq(self.read_address),
                self.read_data.eq(read.data),
            ]
            return m
        for low in range(0, self._width, CELL_BITS):
            used = min(CELL_BITS, self._width - low)
            word = Signal(CELL_BITS, name=f"word{low}")
            m.submodules[f"cell{low}"] = Instance(
                "TRELLIS_DPR16X4",
                p_WCKMUX="WCK",
                p_WREMUX="WRE",
                p_INITVAL=Const(0, WORDS * CELL_BITS),
                i_WCK=ClockSignal(),
                i_WRE=self.write_enable,
                i_WAD=self.write_address,
                i_DI=Cat(self.write_data[low : low + used], Const(0, CELL_BITS - used)),
                i_RAD=self.read_address,
                o_DO=word,
            )
            m.d.comb += self.read_data[low : low + used].eq(word)
        return m
