"""Counts the transfers of a token, and knows the first and the last without comparing in the same cycle."""

from typing import Any

from amaranth.hdl import Elaboratable, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out


class GroupCounter(wiring.Component):
    """`group` goes from 0 to `last` and starts again, a step per cycle with `step`; at_start, at_end mark its ends.

    All outputs are registers. A new `last` counts from a `clear` on that comes a cycle after it.
    """

    def __init__(self, *, bits: int) -> None:
        self._bits = bits
        super().__init__(
            {
                "last": In(bits),
                "clear": In(1),
                "step": In(1),
                "group": Out(bits),
                "at_start": Out(1, init=1),
                "at_end": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Elaboratable:
        """The comparison is made one step ahead."""
        m = Module()
        next_to_last = Signal(self._bits)
        single, starts = Signal(), Signal()
        m.d.sync += [next_to_last.eq(self.last - 1), single.eq(self.last == 0)]
        # `step` comes late in its cycle: it only enables the registers.
        m.d.comb += starts.eq(self.at_end | self.clear)
        with m.If(self.step | self.clear):
            m.d.sync += [
                self.group.eq(Mux(starts, 0, self.group + 1)),
                self.at_start.eq(starts),
                self.at_end.eq(Mux(starts, single, self.group == next_to_last)),
            ]
        return m
