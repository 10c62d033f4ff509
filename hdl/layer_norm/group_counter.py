"""Counts the transfers of a token, and knows the first and the last without comparing in the same cycle."""

from typing import Any

from amaranth.hdl import Elaboratable, Module, Signal
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
        single = Signal()
        m.d.sync += [next_to_last.eq(self.last - 1), single.eq(self.last == 0)]
        with m.If(self.step):
            m.d.sync += [
                self.group.eq(self.group + 1),
                self.at_start.eq(self.at_end),
                self.at_end.eq(self.group == next_to_last),
            ]
        with m.If((self.step & self.at_end) | self.clear):
            m.d.sync += [self.group.eq(0), self.at_start.eq(1), self.at_end.eq(single)]
        return m
