"""hdl.vector.right_shift: floor, rounding and range of a division by a power of two."""

from functools import partial

from formal.proof import Mode, Proof
from formal.rounding import Scaled, is_rounded
from formal.statement import Statement
from hdl.vector.activation import LARGEST_SEGMENT_BITS, PRODUCT_BITS, RISE_BITS
from hdl.vector.depthwise import SHIFT_MAX as DEPTHWISE_SHIFT_MAX
from hdl.vector.depthwise import TOTAL_BITS as DEPTHWISE_BITS
from hdl.vector.encoder import INDEX_BITS, SUM_BITS
from hdl.vector.encoder import SHIFT_MAX as ENCODER_SHIFT_MAX
from hdl.vector.right_shift import RightShift, shift_latency
from sim.contract.constants import WIDE_BITS

USES = {
    "activation": (PRODUCT_BITS, LARGEST_SEGMENT_BITS, RISE_BITS),
    "encoder": (SUM_BITS, ENCODER_SHIFT_MAX, INDEX_BITS + 1),
    "depthwise": (DEPTHWISE_BITS, DEPTHWISE_SHIFT_MAX, WIDE_BITS),
}
"""(width, max_shift, kept) of every unit that has one."""


def write(s: Statement, width: int, max_shift: int, kept: int) -> None:
    """Any value and shift, and what is said of them `latency` cycles later."""
    unit = RightShift(width=width, max_shift=max_shift, kept=kept)
    s.unit(unit)
    value, shift = s.drive(unit.value, "value").as_signed(), s.drive(unit.shift, "shift")
    s.assume(shift <= max_shift)
    settled = s.after(unit.latency)
    scaled = Scaled(s, s.past(value, unit.latency), s.past(shift, unit.latency), max_shift=max_shift)
    limit = 1 << (kept - 1)
    beyond = (scaled.value >= scaled.times(limit)) | (scaled.value < scaled.times(-limit))
    rest = scaled.value - scaled.times(unit.floor)
    s.always(~settled | (unit.over == beyond))
    s.always(~settled | (unit.negative == (scaled.value < 0)))
    s.always(~settled | beyond | ((rest >= 0) & (rest < scaled.unit)))
    s.always(~settled | beyond | is_rounded(scaled, unit.floor + unit.up))
    s.reach(settled & ~beyond & unit.up & unit.floor[0] & (rest == scaled.unit >> 1))
    s.reach(settled & beyond & unit.negative)


PROOFS = tuple(
    Proof(
        name=f"right_shift_{name}",
        says="`floor` is the floor of value / 2**shift and floor + up the value rounded half to even, unless `over`, "
        f"which says that the floor does not fit; for all values of {width} bits and shifts up to {max_shift}, with "
        f"{kept} bits kept.",
        assumes="The shift is at most max_shift.",
        write=partial(write, width=width, max_shift=max_shift, kept=kept),
        mode=Mode.INDUCTION,
        depth=shift_latency(max_shift) + 1,
        reach_depth=shift_latency(max_shift) + 2,
    )
    for name, (width, max_shift, kept) in USES.items()
)
