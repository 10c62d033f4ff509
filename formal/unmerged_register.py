"""hdl.ecp5.unmerged_register: a register that synthesis cannot merge is a register all the same."""

from formal.ecp5 import CELL_MODELS, OPEN_PINS
from formal.proof import Mode, Proof
from formal.statement import Statement
from hdl.ecp5.platform import Ecp5Target
from hdl.ecp5.unmerged_register import UnmergedRegister

WIDTH = 2


def write(s: Statement) -> None:
    """The output is what was on the input one cycle before."""
    unit = UnmergedRegister(width=WIDTH)
    s.unit(unit)
    i = s.drive(unit.i, "i")
    s.always(~s.after(1) | (unit.o == s.past(i)))
    s.reach(unit.o == (1 << WIDTH) - 1)


PROOFS = (
    Proof(
        name="unmerged_register",
        says="The output is the input one cycle later. In TRELLIS_FF cells, by their simulation model.",
        assumes="No reset.",
        write=write,
        mode=Mode.INDUCTION,
        depth=2,
        reach_depth=3,
        platform=Ecp5Target(),
        prepare=CELL_MODELS,
        refine=OPEN_PINS,
    ),
)
