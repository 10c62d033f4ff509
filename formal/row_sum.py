"""hdl.softmax.terms: the sum of a row's terms never wraps."""

from amaranth.hdl import Mux, Signal

from formal.adder_tree import exact_sum
from formal.proof import Mode, Proof
from formal.statement import Statement
from hdl.softmax.geometry import TERM_BITS, SoftmaxGeometry
from hdl.softmax.terms import RowSum

GEOMETRY = SoftmaxGeometry(lanes=4, keys=4096)
EXACT_BITS = 48
TERM_MAX = 1 << (TERM_BITS - 1)

LATENCY = GEOMETRY.tree_levels + 1
"""Of the unit: the levels of the tree and the accumulator."""


def write(s: Statement) -> None:
    """A sum in wide arithmetic beside it."""
    row_sum = RowSum(GEOMETRY)
    s.unit(row_sum)
    valid, first, last = (s.drive(getattr(row_sum, port), port) for port in ("i_valid", "first", "last"))
    s.drive(row_sum.terms, "terms")
    wait = LATENCY - 1
    words = Signal(range(GEOMETRY.row_words + 2))
    began = Signal(range(GEOMETRY.row_words + 2))
    for lane in range(GEOMETRY.lanes):
        s.assume(row_sum.terms[lane] <= TERM_MAX)
    addend = exact_sum(s, [s.past(row_sum.terms[lane], wait) for lane in range(GEOMETRY.lanes)])
    adds, from_zero = s.past(valid, wait), s.past(first, wait)
    exact = Signal(EXACT_BITS)
    s.m.d.comb += began.eq(Mux(from_zero, 0, words) + 1)
    s.assume(~adds | (began <= GEOMETRY.row_words))
    with s.m.If(adds):
        s.m.d.sync += [exact.eq(Mux(from_zero, 0, exact) + addend), words.eq(began)]
    s.always(row_sum.total == exact)
    s.always(words <= GEOMETRY.row_words)
    s.always(exact <= words * GEOMETRY.lanes * TERM_MAX)
    s.always(row_sum.o_valid == s.past(valid & last, wait + 1))
    s.reach(row_sum.o_valid & (words == 2) & (exact == words * GEOMETRY.lanes * TERM_MAX))


PROOFS = (
    Proof(
        name="row_sum",
        says="`total` is the exact sum of the row's terms, 36 bits never wrap; `o_valid` comes `latency` cycles after "
        "the last word.",
        assumes="Terms of at most 2**23, as of a largest key; rows of at most 4,096 keys. 4 lanes.",
        write=write,
        mode=Mode.INDUCTION,
        depth=LATENCY + 2,
        reach_depth=LATENCY + 4,
    ),
)
