"""hdl.array.loader: what the running adders write into the product tables."""

from amaranth.hdl import Mux, Signal, signed

from formal.proof import Mode, Proof
from formal.statement import Opened, Statement
from hdl.array.geometry import ArrayGeometry
from hdl.array.loader import ProductSweep
from sim.contract.constants import LEVEL_MAX

GEOMETRY = ArrayGeometry(rows=16, columns=4, loader_rows=8, column_group=2)


def write(s: Statement) -> None:
    """Any control whatever, as long as the adder is never asked beyond the range of levels."""
    sweep = ProductSweep(GEOMETRY)
    opened = Opened(sweep)
    s.unit(sweep)
    s.drive(sweep.control, "control")
    s.drive(sweep.weights, "weights")
    subtract = s.free("subtract")
    s.m.d.comb += sweep.subtract.eq(subtract.replicate(len(sweep.subtract)))
    control = sweep.control
    position, moved = (Signal(signed(6), name=name) for name in ("position", "moved"))
    weight = Signal(signed(4))
    s.m.d.comb += moved.eq(
        Mux(control.clear, 0, Mux(control.advance, Mux(subtract, position - 1, position + 1), position))
    )
    s.assume(~control.capture | control.clear)
    s.assume((moved <= LEVEL_MAX) & (moved >= -LEVEL_MAX))
    s.m.d.sync += position.eq(moved)
    row, column = GEOMETRY.loader_rows - 1, GEOMETRY.column_group - 1
    with s.m.If(control.capture):
        s.m.d.sync += weight.eq(sweep.weights[row][column])
    product = sweep.write.products[row][column]
    s.always(product == weight * position)
    s.always(opened.variable("weight") == weight)
    s.always((position <= LEVEL_MAX) & (position >= -LEVEL_MAX))
    s.always(~s.after(1) | (sweep.write.enable == s.past(control.enable)))
    s.always(~s.after(1) | (sweep.write.code == s.past(control.code)))
    s.reach((weight == -8) & (product == 24) & (sweep.write.enable != 0))
    s.reach((weight == -8) & (product == -24))


PROOFS = (
    Proof(
        name="product_sweep",
        says="What is written is weight times the position of the sweep, for all weights and any control: the running "
        "adder never wraps, and an entry's enable and code are its own step's.",
        assumes="New weights only together with a clear (every program begins with one), and no step beyond the "
        "range of levels, [-15, 15].",
        write=write,
        mode=Mode.INDUCTION,
        depth=3,
        reach_depth=7,
    ),
)
