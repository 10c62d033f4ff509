"""hdl.ecp5.register_copies: copies that synthesis cannot merge hold the same value all the same."""

from formal.ecp5 import CELL_MODELS, OPEN_PINS
from formal.proof import Mode, Proof
from formal.statement import Statement
from hdl.ecp5.platform import Ecp5Target
from hdl.ecp5.register_copies import RegisterCopies

WIDTH, COPIES = 2, 3


def write(s: Statement) -> None:
    """Each copy is what was on the input one cycle before."""
    unit = RegisterCopies(width=WIDTH, copies=COPIES)
    s.unit(unit)
    i = s.drive(unit.i, "i")
    for copy in range(COPIES):
        s.always(~s.after(1) | (unit.o[copy] == s.past(i)))
    s.reach(unit.o[COPIES - 1] == (1 << WIDTH) - 1)


PROOFS = (
    Proof(
        name="register_copies",
        says="Every copy is the input one cycle later. In TRELLIS_FF cells, by their simulation model.",
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
