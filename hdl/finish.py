"""The last two cycles of every wide result: decide on rounding and saturation, then do it."""

from typing import Any

from amaranth.hdl import Elaboratable, Module, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.ecp5.carry import RoundSaturate
from sim.contract.arithmetic import signed_limits
from sim.contract.constants import WIDE_BITS


class Finish(wiring.Component):
    """`o = floor + up` saturated to 16 bits, or with `over` the limit on the side of `negative`.

    Two cycles (`LATENCY`), one result per cycle; `floor` is ignored with `over`.
    """

    LATENCY = 2

    def __init__(self) -> None:
        super().__init__(
            {
                "floor": In(signed(WIDE_BITS)),
                "up": In(1),
                "over": In(1),
                "negative": In(1),
                "o": Out(signed(WIDE_BITS)),
            }
        )

    @staticmethod
    def model(floor: int, up: bool, over: bool, negative: bool) -> int:
        """The result of one value."""
        low, high = signed_limits(WIDE_BITS)
        if over:
            return low if negative else high
        return min(floor + up, high)

    def elaborate(self, platform: Any) -> Elaboratable:
        """The one floor that fits and whose successor does not is the limit already, so it just stays."""
        m = Module()
        kept = Signal(WIDE_BITS, reset_less=True)
        carry, saturate, negative = (Signal(name=name, reset_less=True) for name in ("carry", "saturate", "negative"))
        result = Signal(signed(WIDE_BITS), reset_less=True)
        m.submodules.rounding = rounding = RoundSaturate(width=WIDE_BITS)
        at_limit = ~self.floor[-1] & self.floor[:-1].all()
        m.d.sync += [
            kept.eq(self.floor),
            carry.eq(self.up & ~self.over & ~at_limit),
            saturate.eq(self.over),
            negative.eq(self.negative),
            result.eq(rounding.o),
        ]
        m.d.comb += [
            rounding.a.eq(kept),
            rounding.carry.eq(carry),
            rounding.saturate.eq(saturate),
            rounding.negative.eq(negative),
            self.o.eq(result),
        ]
        return m
