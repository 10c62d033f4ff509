"""Waiting for a number of cycles."""

from amaranth.hdl import Module, Signal, signed


class Countdown:
    """`done` is high but for the cycles after a start: `start(m, n)` in cycle t makes it high again in cycle t + n.

    The counter stops at -1, so that its sign alone is `done`. longest: most cycles of a start. initial: cycles that it
    waits after reset, 0 for none.
    """

    def __init__(self, m: Module, name: str, *, longest: int, initial: int = 0) -> None:
        bits = max(longest, initial, 2).bit_length() + 1
        self._left = Signal(signed(bits), name=name, init=initial - 1)
        self.done = self._left[-1]
        with m.If(~self.done):
            m.d.sync += self._left.eq(self._left - 1)

    def start(self, m: Module, cycles: int) -> None:
        """Be done `cycles` cycles from this one on, at the earliest one."""
        m.d.sync += self._left.eq(max(cycles, 1) - 2)
