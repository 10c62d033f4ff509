"""A register that synthesis does not merge with others of the same value."""

from typing import Any

from amaranth.hdl import ClockSignal, Elaboratable, Instance, Module, ResetSignal, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.ecp5.platform import is_ecp5


class UnmergedRegister(wiring.Component):
    """`o` is `i` one cycle later, 0 after reset.

    A register with hundreds of loads is slow because its net is long; the cure is several that hold the same value,
    each near its loads. Synthesis merges such registers into one, so on ECP5 each bit is an instantiated TRELLIS_FF,
    which it leaves alone. Raises ValueError when width is below 1.
    """

    def __init__(self, *, width: int) -> None:
        if width < 1:
            raise ValueError(f"width={width} must be at least 1; nearest valid value: 1")
        self._width = width
        super().__init__({"i": In(width), "o": Out(width)})

    @staticmethod
    def model(values: list[int]) -> list[int]:
        """`o` in each cycle, for the values of `i` from reset on."""
        return [0, *values[:-1]]

    def elaborate(self, platform: Any) -> Elaboratable:
        """A portable register, or TRELLIS_FF cells."""
        m = Module()
        if not is_ecp5(platform):
            register = Signal(self._width)
            m.d.sync += register.eq(self.i)
            m.d.comb += self.o.eq(register)
            return m
        for bit in range(self._width):
            m.submodules[f"bit{bit}"] = Instance(
                "TRELLIS_FF",
                p_GSR="DISABLED",
                p_CEMUX="1",
                p_CLKMUX="CLK",
                p_LSRMUX="LSR",
                p_REGSET="RESET",
                p_SRMODE="LSR_OVER_CE",
                i_CLK=ClockSignal(),
                i_LSR=ResetSignal(allow_reset_less=True),
                i_DI=self.i[bit],
                o_Q=self.o[bit],
            )
        return m
