"""hdl.layer_norm.shift_round: division by a power of two, rounded and saturated."""

from functools import partial

from formal.proof import Mode, Proof
from formal.rounding import Scaled, is_rounded_and_saturated
from formal.statement import Statement
from hdl.layer_norm.lane import DEVIATION_BITS, MAX_SHIFT
from hdl.layer_norm.reciprocal_root import MAX_EXPONENT
from hdl.layer_norm.shift_round import ShiftRound
from sim.contract.arithmetic import signed_limits
from sim.contract.constants import BIAS_BITS, WIDE_BITS
from sim.contract.layer_norm import NORM_FRACTION_BITS, ROOT_FRACTION_BITS

LOW, HIGH = signed_limits(WIDE_BITS)


def write(s: Statement, width: int, max_shift: int, offset: int) -> None:
    """Any value and shift, and the result LATENCY cycles later."""
    unit = ShiftRound(width=width, max_shift=max_shift, offset=offset)
    s.unit(unit)
    value, shift = s.drive(unit.a, "value").as_signed(), s.drive(unit.shift, "shift")
    s.assume(shift <= max_shift)
    settled = s.after(ShiftRound.LATENCY)
    amount = (s.past(shift, ShiftRound.LATENCY) + offset)[: (max_shift + offset).bit_length()]
    scaled = Scaled(s, s.past(value, ShiftRound.LATENCY), amount, max_shift=max_shift + offset)
    s.always(~settled | is_rounded_and_saturated(scaled, unit.o, LOW, HIGH))
    s.reach(settled & (unit.o == 2) & (scaled.value == scaled.times(1) + (scaled.unit >> 1)))
    s.reach(settled & (unit.o == LOW) & (scaled.value < scaled.times(LOW - 1)))
    s.reach(settled & (unit.o == 0) & (scaled.value < 0) & (amount == max_shift + offset))


USES = {
    "normalise": (DEVIATION_BITS + ROOT_FRACTION_BITS, MAX_EXPONENT, ROOT_FRACTION_BITS - NORM_FRACTION_BITS),
    "affine": (BIAS_BITS + 1, MAX_SHIFT, 0),
}
"""(width, max_shift, offset) of the two in a LayerNorm lane."""

PROOFS = tuple(
    Proof(
        name=f"shift_round_{name}",
        says="The result is a / 2**(offset + shift) rounded half to even and saturated to 16 bits, LATENCY cycles "
        f"later; for all values of {width} bits and shifts up to {max_shift}, offset {offset}.",
        assumes="The shift is at most max_shift.",
        write=partial(write, width=width, max_shift=max_shift, offset=offset),
        mode=Mode.INDUCTION,
        depth=ShiftRound.LATENCY + 1,
        reach_depth=ShiftRound.LATENCY + 2,
    )
    for name, (width, max_shift, offset) in USES.items()
)
