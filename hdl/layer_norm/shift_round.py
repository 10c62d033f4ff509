"""Division by a power of two that changes from value to value, rounded half to even and saturated to 16 bits."""

from typing import Any

import numpy as np
from amaranth.hdl import Cat, Const, Elaboratable, Module, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.finish import Finish
from hdl.parameters import require
from hdl.pipeline import delay
from sim.contract.arithmetic import round_half_even_shift, saturate
from sim.contract.constants import WIDE_BITS

SHIFT_STAGES = (4, 2, 0)
"""Lowest bit of the shift that each stage takes: by multiples of 16, of 4, of 1."""

WINDOW_BITS = WIDE_BITS + 2
"""What is left after all stages: the half, 16 bits, and one more that must equal the highest of them."""


class ShiftRound(wiring.Component):
    """`o = saturate16(round_half_even(a / 2**(offset + shift)))`, LATENCY = 5 cycles later, one per cycle.

    width: of `a`, signed, 17..60. max_shift: `shift` is in 0..max_shift, 1..63. offset: 0..15, at most
    width - 17.

    Each stage keeps what later stages may still shift into the window, remembers whether a bit below was set
    (it only decides ties) and whether one above differed from the sign (the result saturates).
    Raises ValueError when a parameter is out of range.
    """

    LATENCY = len(SHIFT_STAGES) + Finish.LATENCY

    def __init__(self, *, width: int, max_shift: int, offset: int = 0) -> None:
        for name, value, low, high in (
            ("width", width, WIDE_BITS + 1, 60),
            ("max_shift", max_shift, 1, 63),
            ("offset", offset, 0, min(15, width - WIDE_BITS - 1)),
        ):
            require(name, value, range(low, high + 1), f"in {low}..{high}")
        self._max_shift, self._offset = max_shift, offset
        super().__init__({"a": In(signed(width)), "shift": In(range(max_shift + 1)), "o": Out(signed(WIDE_BITS))})

    def model(self, a: int, shift: int) -> int:
        """The result for one value."""
        return int(saturate(round_half_even_shift(np.array([a], np.int64), self._offset + shift), WIDE_BITS)[0])

    def elaborate(self, platform: Any) -> Elaboratable:
        """Three stages of shifting; what is left is for `Finish` to round and saturate."""
        m = Module()
        scaled = Cat(Const(0, 1), self.a)  # bit 0 is the half once the shift is done
        value: Any = scaled[self._offset :].as_signed()
        sticky: Any = scaled[: self._offset].any()
        sign: Any = self.a[-1]
        over: Any = Const(0, 1)
        shift: Any = self.shift
        for stage, low in enumerate(SHIFT_STAGES):
            width = min(len(value), WINDOW_BITS + (1 << low) - 1)
            shifted = Signal(signed(width), name=f"shifted{stage}", reset_less=True)
            below, beyond, negative = (
                Signal(name=f"{name}{stage}", reset_less=True) for name in ("below", "beyond", "negative")
            )
            most = min(self._max_shift >> low, 3)
            with m.Switch(shift[low : low + 2]):
                for count in range(most + 1):
                    amount = count << low
                    lost = value[amount + width :] ^ sign.replicate(max(0, len(value) - amount - width))
                    with m.Case(count) if count < most else m.Default():
                        m.d.sync += [
                            shifted.eq(value >> amount),
                            below.eq(sticky | value[:amount].any()),
                            beyond.eq(over | lost.any()),
                        ]
            m.d.sync += negative.eq(sign)
            shift = delay(m, shift[:low] if low else Const(0, 1), 1, f"shift{stage}")
            value, sticky, over, sign = shifted, below, beyond, negative

        half, floor = value[0], value[1:]
        fits = ~over & (floor[-1] == sign) & (floor[-2] == sign)
        m.submodules.finish = finish = Finish()
        m.d.comb += [
            finish.floor.eq(floor),
            finish.up.eq(half & (floor[0] | sticky)),
            finish.over.eq(~fits),
            finish.negative.eq(sign),
            self.o.eq(finish.o),
        ]
        return m
