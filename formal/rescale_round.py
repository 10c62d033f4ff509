"""hdl.rescale: from a 36-bit accumulator to a wide result."""

from amaranth.hdl import Signal, signed

from formal.proof import Mode, Proof
from formal.rounding import Scaled, is_rounded_and_saturated
from formal.statement import Statement
from hdl.finish import Finish
from hdl.rescale import GroupRescale
from sim.contract.arithmetic import signed_limits
from sim.contract.constants import ACCUMULATOR_BITS, SCALE_FRACTION_BITS, WIDE_BITS

LOW, HIGH = signed_limits(WIDE_BITS)


def write(s: Statement) -> None:
    """Any accumulator, and the result two cycles later."""
    accumulator = s.free("accumulator", signed(ACCUMULATOR_BITS))
    result = Signal(signed(16))
    s.m.d.comb += result.eq(GroupRescale._round(s.m, accumulator, 0))
    before = s.past(accumulator, Finish.LATENCY)
    scaled = Scaled(s, before, SCALE_FRACTION_BITS, max_shift=SCALE_FRACTION_BITS)
    s.always(~s.after(Finish.LATENCY) | is_rounded_and_saturated(scaled, result, LOW, HIGH))
    half = 1 << (SCALE_FRACTION_BITS - 1)
    s.reach(s.after(Finish.LATENCY) & (before[:SCALE_FRACTION_BITS] == half) & (result == 2))
    s.reach(s.after(Finish.LATENCY) & (result == LOW) & (before < -(1 << 30)))
    s.reach(s.after(Finish.LATENCY) & (result == HIGH) & (before == (HIGH << SCALE_FRACTION_BITS) + half))


PROOFS = (
    Proof(
        name="rescale_round",
        says="The wide result is accumulator / 2**10 rounded half to even and saturated to 16 bits, two cycles later; "
        "for all 2**36 accumulators.",
        assumes="Nothing.",
        write=write,
        mode=Mode.INDUCTION,
        depth=Finish.LATENCY + 1,
        reach_depth=Finish.LATENCY + 2,
    ),
)
