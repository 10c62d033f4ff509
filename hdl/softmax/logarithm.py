"""log2 of a sum of terms."""

from typing import Any

from amaranth.hdl import Array, Cat, Elaboratable, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.ecp5.table_rom import TableRom
from hdl.pipeline import delay
from hdl.softmax.geometry import TERM_BITS, SoftmaxGeometry
from sim.contract.softmax import LOG2, LOG_FRACTION_BITS


class Log2OfSum(wiring.Component):
    """sim.contract.softmax.log2_of_sum of `total` >= 2**23 (one largest term), LATENCY = 5 cycles later, one per cycle.

    The leading one gives the whole part, the nine bits below it the place in a table.
    """

    LATENCY = 2 + TableRom.LATENCY + 1

    def __init__(self, geometry: SoftmaxGeometry) -> None:
        self._geometry = geometry
        super().__init__({"total": In(geometry.sum_bits), "o": Out(geometry.log_bits)})

    def elaborate(self, platform: Any) -> Elaboratable:
        """Find the leading one, move what follows it into place, look it up."""
        m = Module()
        lowest = TERM_BITS - 1
        places = self._geometry.sum_bits - lowest
        lead = Signal(range(places), reset_less=True)
        total = Signal(self._geometry.sum_bits, reset_less=True)
        m.d.sync += [total.eq(self.total), lead.eq(0)]
        for place in range(1, places):
            with m.If(self.total[lowest + place]):
                m.d.sync += lead.eq(place)
        mantissa = Signal(LOG_FRACTION_BITS, reset_less=True)
        below = [total[lowest + place - LOG_FRACTION_BITS : lowest + place] for place in range(places)]
        m.d.sync += mantissa.eq(Array(below)[lead])
        m.submodules.log2 = table = TableRom(LOG2.tolist())
        m.d.comb += table.address_a.eq(mantissa)
        whole = delay(m, lead, 1 + TableRom.LATENCY, "whole")
        m.d.sync += self.o.eq(Cat(Signal(LOG_FRACTION_BITS), whole) + table.data_a)
        return m
