"""One channel per cycle: normalised with the token's scale, then gain and bias."""

from typing import Any

from amaranth.hdl import Cat, Elaboratable, Module, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.ecp5.multiplier import OPERAND_BITS, RegisteredMultiplier
from hdl.layer_norm.reciprocal_root import CHANNELS_BITS, MAX_EXPONENT
from hdl.layer_norm.shift_round import ShiftRound
from hdl.layer_norm.token_sums import SUM_BITS
from sim.contract.constants import BIAS_BITS, WIDE_BITS
from sim.contract.layer_norm import NORM_FRACTION_BITS, ROOT_FRACTION_BITS

MAX_SHIFT = 40
"""Of the affine: the contract's limit."""

DEVIATION_BITS = SUM_BITS + 1
"""Signed width of C * x - sum."""

LOW_BITS = OPERAND_BITS - 1
"""Bits of the deviation's low part, unsigned in a signed operand."""


class NormaliseLane(wiring.Component):
    """n = ((C * x - sum) * root) / 2**(6 + exponent), finished; y = (n * gain + bias) / 2**shift, finished.

    A channel on `x` in cycle t wants the other inputs in cycle t + their stage: sum SUM_STAGE, root ROOT_STAGE,
    exponent EXPONENT_STAGE, gain GAIN_STAGE, bias BIAS_STAGE; `channels` and `shift` do not change. `y` comes in
    cycle t + LATENCY. One channel per cycle; four multipliers. Source: sim.contract.layer_norm.
    """

    SUM_STAGE = RegisteredMultiplier.LATENCY
    ROOT_STAGE = SUM_STAGE + 1
    EXPONENT_STAGE = ROOT_STAGE + RegisteredMultiplier.LATENCY + 1
    GAIN_STAGE = EXPONENT_STAGE + ShiftRound.LATENCY
    BIAS_STAGE = GAIN_STAGE + RegisteredMultiplier.LATENCY
    LATENCY = BIAS_STAGE + 1 + ShiftRound.LATENCY

    def __init__(self) -> None:
        super().__init__(
            {
                "channels": In(CHANNELS_BITS),
                "shift": In(range(MAX_SHIFT + 1)),
                "x": In(signed(WIDE_BITS)),
                "sum": In(signed(SUM_BITS)),
                "root": In(ROOT_FRACTION_BITS),
                "exponent": In(range(MAX_EXPONENT + 1)),
                "gain": In(signed(WIDE_BITS)),
                "bias": In(signed(BIAS_BITS)),
                "y": Out(signed(WIDE_BITS)),
            }
        )

    def elaborate(self, platform: Any) -> Elaboratable:
        """Multipliers with a register behind each addition, and two shifters."""
        m = Module()
        names = ("by_channels", "by_root_low", "by_root_high", "by_gain")
        by_channels, by_root_low, by_root_high, by_gain = (RegisteredMultiplier() for _ in names)
        for name, multiplier in zip(names, (by_channels, by_root_low, by_root_high, by_gain), strict=True):
            m.submodules[name] = multiplier

        deviation = Signal(signed(DEVIATION_BITS), reset_less=True)
        m.d.comb += [by_channels.a.eq(self.x), by_channels.b.eq(self.channels)]
        m.d.sync += deviation.eq(by_channels.o - self.sum)

        product = Signal(signed(DEVIATION_BITS + ROOT_FRACTION_BITS), reset_less=True)
        m.d.comb += [
            by_root_low.a.eq(deviation[:LOW_BITS]),
            by_root_low.b.eq(self.root),
            by_root_high.a.eq(deviation[LOW_BITS:].as_signed()),
            by_root_high.b.eq(self.root),
        ]
        low = by_root_low.o
        m.d.sync += product.eq(Cat(low[:LOW_BITS], by_root_high.o + low[LOW_BITS:].as_signed()))

        m.submodules.normalise = normalise = ShiftRound(
            width=len(product),
            max_shift=MAX_EXPONENT,
            offset=ROOT_FRACTION_BITS - NORM_FRACTION_BITS,
        )
        affine = Signal(signed(BIAS_BITS + 1), reset_less=True)
        m.submodules.finish = finish = ShiftRound(width=len(affine), max_shift=MAX_SHIFT)
        m.d.comb += [
            normalise.a.eq(product),
            normalise.shift.eq(self.exponent),
            by_gain.a.eq(normalise.o),
            by_gain.b.eq(self.gain),
            finish.a.eq(affine),
            finish.shift.eq(self.shift),
            self.y.eq(finish.o),
        ]
        m.d.sync += affine.eq(by_gain.o + self.bias)
        return m
