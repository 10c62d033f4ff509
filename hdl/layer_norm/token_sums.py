"""Exact sums of a token: of its channels and of their squares."""

from typing import Any

from amaranth.hdl import Elaboratable, Module, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.array.adder_tree import AdderTree
from hdl.ecp5.carry import SelectAdd
from hdl.ecp5.multiplier import RegisteredMultiplier
from hdl.layer_norm.geometry import DEPTH_MAX
from hdl.pipeline import delay
from sim.contract.constants import WIDE_BITS

SUM_BITS = WIDE_BITS + DEPTH_MAX.bit_length() - 1
"""Signed width of the sum of 4,096 channels: 28."""

SQUARES_BITS = 2 * (WIDE_BITS - 1) + DEPTH_MAX.bit_length()
"""Width of the sum of 4,096 squares, up to 2**42: 43."""

SUMS_LAYOUT = data.StructLayout({"sum": signed(SUM_BITS), "squares": unsigned(SQUARES_BITS)})


class TokenSums(wiring.Component):
    """Adds up `lanes` channels per cycle; `first` and `last` mark a token's ends.

    `o.valid` is up for one cycle, `latency(lanes)` = 4 + log2(lanes) cycles after the last channels, and does not
    wait: the receiver must be ready. One multiplier per lane squares the channels.
    """

    def __init__(self, *, lanes: int) -> None:
        self._lanes = lanes
        super().__init__(
            {
                "valid": In(1),
                "first": In(1),
                "last": In(1),
                "x": In(data.ArrayLayout(signed(WIDE_BITS), lanes)),
                "o": Out(stream.Signature(SUMS_LAYOUT, always_ready=True)),
            }
        )

    @staticmethod
    def latency(lanes: int) -> int:
        """Cycles from a token's last channels to its sums: multiplier, tree, accumulator."""
        return RegisteredMultiplier.LATENCY + (lanes - 1).bit_length() + 1

    @staticmethod
    def model(channels: list[int]) -> dict[str, int]:
        """The sums of one token."""
        return {"sum": sum(channels), "squares": sum(x * x for x in channels)}

    def elaborate(self, platform: Any) -> Elaboratable:
        """Trees over the lanes, accumulators behind them; the plain sum waits for the squares."""
        m = Module()
        m.submodules.sum_tree = sum_tree = AdderTree(inputs=self._lanes, width=WIDE_BITS)
        m.submodules.square_tree = square_tree = AdderTree(inputs=self._lanes, width=2 * WIDE_BITS)
        for lane in range(self._lanes):
            m.submodules[f"square{lane}"] = square = RegisteredMultiplier()
            m.d.comb += [
                square.a.eq(self.x[lane]),
                square.b.eq(self.x[lane]),
                square_tree.i[lane].eq(square.o),
                sum_tree.i[lane].eq(self.x[lane]),
            ]
        latency = self.latency(self._lanes)
        to_sums = latency - 1
        last = Signal()
        m.d.comb += last.eq(self.valid & self.last)
        valid = delay(m, self.valid, to_sums, "valid", reset_less=False)
        more = Signal()
        m.d.comb += more.eq(~delay(m, self.first, to_sums, "first"))
        addends = {"sum": delay(m, sum_tree.o, RegisteredMultiplier.LATENCY, "sum"), "squares": square_tree.o}
        for name, width in (("sum", SUM_BITS), ("squares", SQUARES_BITS)):
            m.submodules[f"{name}_adder"] = adder = SelectAdd(width=width)
            total = Signal(width, name=f"{name}_total", reset_less=True)
            m.d.comb += [
                adder.a.eq(total),
                adder.b.eq(addends[name]),
                adder.select.eq(more),
                self.o.payload[name].eq(total),
            ]
            with m.If(valid):
                m.d.sync += total.eq(adder.o)
        m.d.comb += self.o.valid.eq(delay(m, last, latency, "last", reset_less=False))
        return m
