"""One value in several registers, each near its loads."""

from typing import Any

from amaranth.hdl import ClockSignal, Elaboratable, Instance, Module, ResetSignal, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hdl.ecp5.platform import is_ecp5


class RegisterCopies(wiring.Component):
    """o[k] is `i` one cycle later, 0 after reset, for every copy k.

    A register with hundreds of loads is slow because its net is long. Synthesis merges registers that hold the same
    value, so on ECP5 each bit of each copy is an instantiated TRELLIS_FF, which it leaves alone.
    Raises ValueError when width or copies is below 1.
    """

    def __init__(self, *, width: int, copies: int) -> None:
        for name, value in (("width", width), ("copies", copies)):
            if value < 1:
                raise ValueError(f"{name}={value} must be at least 1; nearest valid value: 1")
        self._width, self._copies = width, copies
        super().__init__({"i": In(width), "o": Out(data.ArrayLayout(width, copies))})

    @staticmethod
    def model(values: list[int]) -> list[int]:
        """What every copy holds in each cycle, for the values of `i` from reset on."""
        return [0, *values[:-1]]

    def elaborate(self, platform: Any) -> Elaboratable:
        """Portable registers, or TRELLIS_FF cells."""
        m = Module()
        for copy in range(self._copies):
            if not is_ecp5(platform):
                register = Signal(self._width, name=f"copy{copy}")
                m.d.sync += register.eq(self.i)
                m.d.comb += self.o[copy].eq(register)
                continue
            for bit in range(self._width):
                m.submodules[f"copy{copy}_{bit}"] = Instance(
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
                    o_Q=self.o[copy][bit],
                )
        return m
