"""Arithmetic right shift by an amount known late, with all that rounding and saturation need to know."""

from typing import Any

from amaranth.hdl import Cat, Const, Elaboratable, Module, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.parameters import require

BITS_PER_STAGE = 2
"""Bits of the amount that one stage works off: a choice of four per bit."""


def shift_latency(max_shift: int) -> int:
    """Cycles that a RightShift of up to `max_shift` places takes: ceil(log2(max_shift + 1) / 2)."""
    return -(-max_shift.bit_length() // BITS_PER_STAGE)


class RightShift(wiring.Component):
    """`floor = value >> shift` in `kept` signed bits, and what was lost of it, `latency` cycles later.

    up: round half to even is floor + 1 (combinational behind the last register). over: the floor does not fit
    `kept` bits, and `floor` is then undefined; `negative`, the sign of the value, is not.
    `latency` = shift_latency(max_shift) cycles, one value and one shift per cycle. Coarse stages come first and
    keep only the bits that later ones can still move into place.

    Raises ValueError when kept is outside 2..width or max_shift outside 1..width - 1.
    """

    def __init__(self, *, width: int, max_shift: int, kept: int) -> None:
        self._width = width
        self._kept = require("kept", kept, range(2, width + 1), f"in 2..width={width}")
        self._max_shift = require("max_shift", max_shift, range(1, width), f"in 1..width - 1 = {width - 1}")
        self.latency = shift_latency(max_shift)
        super().__init__(
            {
                "value": In(signed(width)),
                "shift": In(range(max_shift + 1)),
                "floor": Out(signed(kept)),
                "up": Out(1),
                "over": Out(1),
                "negative": Out(1),
            }
        )

    @staticmethod
    def model(value: int, shift: int, kept: int) -> tuple[int, bool, bool, bool]:
        """(floor, up, over, negative) of one value; the floor in full where it is over."""
        floor = value >> shift
        twice_rest = 2 * (value - (floor << shift))
        up = twice_rest > 1 << shift or (shift > 0 and twice_rest == 1 << shift and floor % 2 == 1)
        return floor, up, not -(1 << (kept - 1)) <= floor < 1 << (kept - 1), value < 0

    def elaborate(self, platform: Any) -> Elaboratable:
        """Bit 0 of the moving number is the half bit; `sticky` says whether anything below it was set."""
        m = Module()
        moving: Any = Cat(Const(0, 1), self.value).as_signed()
        shift: Any = self.shift
        sticky: Any = Const(0, 1)
        over: Any = Const(0, 1)
        negative: Any = self.value[-1]
        low = len(self.shift)
        while low > 0:
            # An odd bit goes first, where the number is widest.
            count = low % BITS_PER_STAGE or BITS_PER_STAGE
            low -= count
            width = min(len(moving), self._kept + (1 << low))
            moved = Signal(signed(width), name=f"moved{low}", reset_less=True)
            lost = Signal(name=f"sticky{low}", reset_less=True)
            beyond = Signal(name=f"over{low}", reset_less=True)
            sign = Signal(name=f"negative{low}", reset_less=True)
            m.d.sync += sign.eq(negative)
            with m.Switch(shift[low : low + count]):
                for choice in range(1 << count):
                    amount = min(choice << low, len(moving) - 1)
                    shifted = moving[amount:].as_signed()
                    top = shifted[width - 1 :]  # all equal where the number fits
                    with m.Case(choice):
                        m.d.sync += [
                            moved.eq(shifted),
                            lost.eq(sticky | moving[:amount].any()),
                            beyond.eq(over | (top.any() & ~top.all())),
                        ]
            if low > 0:
                rest = Signal(low, name=f"shift{low}", reset_less=True)
                m.d.sync += rest.eq(shift[:low])
                shift = rest
            moving, sticky, over, negative = moved, lost, beyond, sign
        m.d.comb += [
            self.floor.eq(moving[1:]),
            self.up.eq(moving[0] & (sticky | moving[1])),
            self.over.eq(over),
            self.negative.eq(negative),
        ]
        return m
