"""hdl.finish: the last two cycles of every wide result."""

from amaranth.hdl import Mux

from formal.ecp5 import CELL_MODELS, OPEN_PINS
from formal.proof import Mode, Proof
from formal.statement import Statement
from hdl.ecp5.platform import Ecp5Target
from hdl.finish import Finish
from sim.contract.arithmetic import signed_limits
from sim.contract.constants import WIDE_BITS

LOW, HIGH = signed_limits(WIDE_BITS)


def write(s: Statement) -> None:
    """The sum in as many bits as it needs, compared with the ends of the range."""
    finish = Finish()
    s.unit(finish)
    floor, up = s.drive(finish.floor, "floor").as_signed(), s.drive(finish.up, "up")
    over, negative = s.drive(finish.over, "over"), s.drive(finish.negative, "negative")
    exact = floor + up
    clamped = Mux(exact > HIGH, HIGH, Mux(exact < LOW, LOW, exact))
    expected = Mux(over, Mux(negative, LOW, HIGH), clamped)
    s.always(~s.after(Finish.LATENCY) | (finish.o == s.past(expected, Finish.LATENCY)))
    s.reach(s.after(Finish.LATENCY) & s.past((exact > HIGH) & ~over, Finish.LATENCY))
    s.reach(s.after(Finish.LATENCY) & (finish.o == LOW) & s.past(over, Finish.LATENCY))


PROOFS = tuple(
    Proof(
        name=name,
        says="The result is floor + up, clamped to 16 signed bits, or with `over` the end of the range on the side of "
        f"`negative`, two cycles later; for all inputs; {form}.",
        assumes="Nothing.",
        write=write,
        mode=Mode.INDUCTION,
        depth=Finish.LATENCY + 1,
        reach_depth=Finish.LATENCY + 2,
        platform=platform,
        prepare=CELL_MODELS if platform else (),
        refine=OPEN_PINS if platform else (),
    )
    for name, form, platform in (
        ("finish", "portable form", None),
        ("finish_ecp5", "in carry-chain cells, by their simulation model", Ecp5Target()),
    )
)
