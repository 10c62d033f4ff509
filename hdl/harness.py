"""A top level that puts registers on every port of a unit, so that a timing report is about the unit."""

from typing import Any

from amaranth.back import rtlil
from amaranth.hdl import Cat, ClockDomain, Elaboratable, Module, Signal
from amaranth.lib import wiring

from hdl.ecp5.platform import Ecp5Target

CHAIN_BITS = 256
"""Longest shift register: yosys walks along it recursively and runs out of stack at a few thousand."""


class Harness(Elaboratable):
    """`unit` between shift registers for its inputs and registers, marked `keep`, for its outputs.

    Pins: clk, rst, shift and one bit of data per shift register of CHAIN_BITS flip-flops, which move on with `shift`
    alone: without a clock enable of their own, a bit delayed by one cycle would be the bit beside it, and synthesis
    would merge the registers that a unit puts one behind the other with those of the harness, and what stands far apart
    in the unit into one register. The harness is made of flip-flops only, `flip_flops` of them and no look-up table, so
    the look-up tables of a report are the unit's.
    """

    def __init__(self, unit: wiring.Component) -> None:
        self._unit = unit
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []
        for _, member, value in unit.signature.flatten(unit):
            (self._inputs if member.flow == wiring.In else self._outputs).append(value)
        widths = [sum(_bits(value) for value in values) for values in (self._inputs, self._outputs)]
        self._input_bits, self._output_bits = widths
        self.flip_flops = sum(widths) + 1
        self.clk, self.rst, self.shift = Signal(), Signal(), Signal()
        self.data = Signal(max(1, -(-self._input_bits // CHAIN_BITS)))

    def elaborate(self, platform: Any) -> Module:
        """Shift data in, keep what comes out."""
        m = Module()
        m.domains.sync = sync = ClockDomain("sync")
        m.domains.pins = pins = ClockDomain("pins", reset_less=True)
        m.submodules.unit = self._unit
        shift = Signal(self._input_bits, name="stimulus")
        reset = Signal(name="reset", attrs={"keep": 1})
        m.d.comb += [sync.clk.eq(self.clk), pins.clk.eq(self.clk), sync.rst.eq(reset)]
        m.d.pins += reset.eq(self.rst)
        for chain, first in enumerate(range(0, self._input_bits, CHAIN_BITS)):
            bits = shift[first : first + CHAIN_BITS]
            with m.If(self.shift):
                m.d.pins += bits.eq(Cat(self.data[chain], bits[:-1]))
        start = 0
        for value in self._inputs:
            m.d.comb += _plain(value).eq(shift[start : start + _bits(value)])
            start += _bits(value)
        for index, value in enumerate(self._outputs):
            kept = Signal(_bits(value), name=f"kept{index}", attrs={"keep": 1})
            m.d.pins += kept.eq(_plain(value))
        return m

    def rtlil(self) -> str:
        """The harness with its unit elaborated for ECP5, as RTLIL with top module `top`."""
        return rtlil.convert(self, name="top", platform=Ecp5Target(), ports=[self.clk, self.rst, self.shift, self.data])


def _plain(value: Any) -> Any:
    return value.as_value() if hasattr(value, "as_value") else value


def _bits(value: Any) -> int:
    return len(_plain(value))
