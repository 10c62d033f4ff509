"""The table of reciprocal roots in a block RAM that is never written."""

from typing import Any

from amaranth.hdl import Elaboratable, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.ecp5.table_rom import TableRom
from sim.contract.layer_norm import MANTISSA_FRACTION_BITS, ROOT_FRACTION_BITS, ROOT_TABLE

INDEX_BITS = 8
"""Leading bits of the mantissa that address the table."""

MANTISSA_BITS = MANTISSA_FRACTION_BITS + 2
"""m in [1, 4)."""


class RootTable(wiring.Component):
    """`root` = ROOT_TABLE[index - 64], `LATENCY` = 2 cycles after `index`, 64..255; one per cycle.

    Below 64 the root is 0: no mantissa is below 1. A table in block RAM with its output register, as synthesis would
    leave that register outside and run at 110 MHz.
    """

    LATENCY = TableRom.LATENCY

    def __init__(self) -> None:
        super().__init__({"index": In(INDEX_BITS), "root": Out(ROOT_FRACTION_BITS)})

    @staticmethod
    def words() -> list[int]:
        """What the 256 addresses hold."""
        return [0] * ((1 << INDEX_BITS) - len(ROOT_TABLE)) + [int(root) for root in ROOT_TABLE]

    def elaborate(self, platform: Any) -> Elaboratable:
        """One port of a table."""
        m = Module()
        m.submodules.rom = rom = TableRom(self.words())
        m.d.comb += [rom.address_a.eq(self.index), self.root.eq(rom.data_a)]
        return m
