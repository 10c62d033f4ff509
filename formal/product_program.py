"""hdl.array: a whole sweep program, from its first step to the sixteen products of a table."""

from functools import partial

from amaranth.hdl import Array, Const, Signal, signed

from formal.proof import Mode, Proof
from formal.statement import Opened, Statement
from hdl.array.geometry import ArrayGeometry
from hdl.array.loader import ProductSweep
from hdl.array.sweep import STEP_LAYOUT, sweep_program
from sim.contract.codebook import affine_codebook, low_plane_codebook
from sim.contract.constants import CODES

GEOMETRY = ArrayGeometry(rows=16, columns=4, loader_rows=16, column_group=2)

CODEBOOKS = {
    "uniform": affine_codebook().tolist(),
    "low_plane": low_plane_codebook().tolist(),
    "powers": [0, 1, 2, 4, 8, 15, -1, -2, -4, -8, -15, 0, 3, -3, 15, -15],
}
"""The codebooks of 4-bit inputs and of the low plane of 8-bit ones (the high plane's is the uniform one), and one
out of order with duplicates."""


def write(s: Statement, levels: list[int]) -> None:
    """One step of the program per cycle, as the loader issues them; one table is watched: last row, last column."""
    program = sweep_program(levels)
    sweep = ProductSweep(GEOMETRY)
    opened = Opened(sweep)
    s.unit(sweep)
    s.drive(sweep.weights, "weights")
    number = Signal(range(len(program) + 1))
    running = number != len(program)
    s.m.d.sync += number.eq(number + running)
    step = Signal(STEP_LAYOUT)
    control = sweep.control
    s.m.d.comb += [
        step.eq(Array([*program, 0])[number]),
        control.capture.eq(number == 0),
        control.clear.eq(step.clear),
        control.advance.eq(step.advance),
        sweep.subtract.eq(step.subtract.replicate(len(sweep.subtract))),
        control.code.eq(step.code),
        control.enable.eq(step.write & running),
    ]
    row, column = GEOMETRY.loader_rows - 1, GEOMETRY.column_group - 1
    weight = Signal(signed(4))
    with s.m.If(number == 0):
        s.m.d.sync += weight.eq(sweep.weights[row][column])
    written = Signal(CODES)
    level = Array([Const(level, signed(5)) for level in levels])[sweep.write.code]
    with s.m.If(sweep.write.enable):
        s.m.d.sync += written.eq(written | (1 << sweep.write.code))
    s.always(opened.variable("weight") == weight)
    s.always(~sweep.write.enable | (sweep.write.products[row][column] == level * weight))
    over = s.past(~running, 2)
    s.always(~over | written.all())
    s.reach(over & (weight == -8))


def _bound(levels: list[int]) -> int:
    """The program, and the cycles from its last step to the last entry."""
    return len(sweep_program(levels)) + 4


PROOFS = tuple(
    Proof(
        name=f"product_program_{name}",
        says=f"The program of the codebook `{name}` writes weight * level for each of the 16 codes, for all weights.",
        assumes="One step per cycle from the program's first to its last. One row group.",
        write=partial(write, levels=levels),
        mode=Mode.BOUNDED,
        depth=_bound(levels),
        reach_depth=_bound(levels),
    )
    for name, levels in CODEBOOKS.items()
)
