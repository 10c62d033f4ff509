"""Rounding half to even and saturation, stated as relations between a value and its result, in wide arithmetic.

Nothing here adds a half and shifts, as the hardware and the contract do: a result is right when no integer is nearer,
when it is even if another is as near, and when it is the end of the range only if the value asks for it.
"""

from typing import Any

from amaranth.hdl import Mux, Signal, ValueLike, signed

from formal.statement import Statement


class Scaled:
    """`value` and multiples of 2**`shift`, all doubled, in signed numbers wide enough for every sum here."""

    def __init__(self, s: Statement, value: Any, shift: Any, *, max_shift: int) -> None:
        self._bits = max(len(value), 20 + max_shift) + 2
        self._shift = shift
        self._s = s
        self.value = self._wide(value << 1, "value")
        self.unit = self._wide(self._moved(2), "unit")

    def _wide(self, value: ValueLike, name: str) -> Signal:
        wide = Signal(signed(self._bits), name=f"scaled_{name}")
        self._s.m.d.comb += wide.eq(value)
        return wide

    def _moved(self, number: Any) -> Any:
        """number * 2**shift."""
        wide = self._wide(number, "number")
        return wide << self._shift

    def times(self, number: Any) -> Signal:
        """2 * number * 2**shift, for a signed number of at most 18 bits and a shift of at most max_shift."""
        return self._wide(self._moved(number * 2), "multiple")


def is_rounded(scaled: Scaled, result: Any) -> Any:
    """`result` is value / 2**shift rounded half to even."""
    error = scaled.value - scaled.times(result)
    half = scaled.unit >> 1
    return (error <= half) & (-error <= half) & (((error != half) & (-error != half)) | ~result[0])


def is_rounded_and_saturated(scaled: Scaled, result: Any, low: int, high: int) -> Any:
    """`result` is value / 2**shift rounded half to even, but at least `low` (even) and at most `high` (odd)."""
    half = scaled.unit >> 1
    reaches_high = scaled.value > scaled.times(high) - half  # at the tie itself the even neighbour is nearer
    reaches_low = scaled.value <= scaled.times(low) + half
    inside = is_rounded(scaled, result)
    return (
        (result >= low) & (result <= high) & Mux(result == high, reaches_high, Mux(result == low, reaches_low, inside))
    )
