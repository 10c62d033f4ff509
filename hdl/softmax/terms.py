"""Distances below the maximum, their powers of two, and the sum of these over a row."""

from typing import Any

from amaranth.hdl import Cat, Elaboratable, Module, Mux, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hdl.array.adder_tree import AdderTree
from hdl.ecp5.carry import SelectAdd
from hdl.ecp5.multiplier import RegisteredMultiplier
from hdl.ecp5.table_rom import TableRom
from hdl.pipeline import delay
from hdl.softmax.geometry import DISTANCE_BITS, LOGIT_BITS, TERM_BITS, SoftmaxGeometry
from sim.contract.softmax import EXP2, GUARD_BITS, LOG_FRACTION_BITS

HALVINGS = 16
"""Halvings that one multiplication does; a distance of as many or more shifts by 16 once again."""


class Distances(wiring.Component):
    """min(maximum - logit, 2**14) for every lane, LATENCY = 2 cycles later."""

    LATENCY = 2

    def __init__(self, lanes: int) -> None:
        self._lanes = lanes
        super().__init__(
            {
                "maximum": In(LOGIT_BITS),
                "logits": In(data.ArrayLayout(unsigned(LOGIT_BITS), lanes)),
                "o": Out(data.ArrayLayout(unsigned(DISTANCE_BITS), lanes)),
            }
        )

    def elaborate(self, platform: Any) -> Elaboratable:
        """The difference is never negative, so it fits as many bits as a logit."""
        m = Module()
        top = DISTANCE_BITS - 1
        for lane in range(self._lanes):
            difference = Signal(LOGIT_BITS, name=f"difference{lane}", reset_less=True)
            m.d.sync += difference.eq(self.maximum - self.logits[lane])
            beyond = difference[top:].any()
            m.d.sync += self.o[lane].eq(Cat(Mux(beyond, 0, difference[:top]), beyond))
        return m


class Terms(wiring.Component):
    """(EXP2[d mod 512] << 8) >> (d div 512) for every lane, LATENCY = 6 cycles later.

    A table port and a MULT18X18D per lane: the multiplier by a power of two is the barrel shifter.
    """

    LATENCY = TableRom.LATENCY + RegisteredMultiplier.LATENCY + 1

    def __init__(self, lanes: int) -> None:
        self._lanes = lanes
        super().__init__(
            {
                "distances": In(data.ArrayLayout(unsigned(DISTANCE_BITS), lanes)),
                "o": Out(data.ArrayLayout(unsigned(TERM_BITS), lanes)),
            }
        )

    def elaborate(self, platform: Any) -> Elaboratable:
        """Two lanes share a table."""
        m = Module()
        for lane in range(self._lanes):
            if lane % 2 == 0:
                m.submodules[f"exp2_{lane}"] = rom = TableRom(EXP2.tolist())
            port = "ab"[lane % 2]
            distance = self.distances[lane]
            halvings = Signal(DISTANCE_BITS - LOG_FRACTION_BITS, name=f"halvings{lane}", reset_less=True)
            # The power is decoded while the table is read. A distance of 2**14 has none: its term is zero.
            power = Signal(HALVINGS + 1, name=f"power{lane}", reset_less=True)
            m.d.sync += halvings.eq(distance[LOG_FRACTION_BITS:])
            for place in range(HALVINGS):
                m.d.sync += power[HALVINGS - place].eq((halvings[:4] == place) & ~halvings[-1])
            m.submodules[f"shifter{lane}"] = shifter = RegisteredMultiplier()
            far = Signal(name=f"far{lane}")
            term = Signal(TERM_BITS, name=f"term{lane}", reset_less=True)
            m.d.comb += [
                getattr(rom, f"address_{port}").eq(distance[:LOG_FRACTION_BITS]),
                shifter.a.eq(getattr(rom, f"data_{port}")),
                shifter.b.eq(power),
                far.eq(halvings[4]),
            ]
            late = delay(m, far, self.LATENCY - 2, f"far{lane}")
            near_term = shifter.o[HALVINGS - GUARD_BITS :][:TERM_BITS]
            m.d.sync += term.eq(Mux(late, near_term[HALVINGS:], near_term))
            m.d.comb += self.o[lane].eq(term)
        return m


class RowSum(wiring.Component):
    """The sum of a row's terms: `total` is complete, marked by `o_valid`, `latency` cycles after its last word.

    Latency: log2(lanes) + 1 cycles. One word per cycle.
    """

    def __init__(self, geometry: SoftmaxGeometry) -> None:
        self._geometry = geometry
        self.latency = geometry.tree_levels + 1
        super().__init__(
            {
                "i_valid": In(1),
                "first": In(1),
                "last": In(1),
                "terms": In(data.ArrayLayout(unsigned(TERM_BITS), geometry.lanes)),
                "o_valid": Out(1),
                "total": Out(geometry.sum_bits),
            }
        )

    def elaborate(self, platform: Any) -> Elaboratable:
        """An adder tree over the lanes and an accumulator."""
        m = Module()
        levels = self._geometry.tree_levels
        m.submodules.tree = tree = AdderTree(inputs=self._geometry.lanes, width=TERM_BITS + 1)
        m.submodules.adder = adder = SelectAdd(width=self._geometry.sum_bits)
        m.d.comb += [tree.i[lane].eq(self.terms[lane]) for lane in range(self._geometry.lanes)]
        valid = delay(m, self.i_valid, levels, "valid", reset_less=False)
        first, last = delay(m, self.first, levels, "first"), delay(m, self.last, levels, "last")
        m.d.comb += [adder.a.eq(self.total), adder.b.eq(tree.o), adder.select.eq(~first)]
        m.d.sync += self.o_valid.eq(valid & last)
        with m.If(valid):
            m.d.sync += self.total.eq(adder.o)
        return m
