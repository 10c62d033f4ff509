"""hdl.array.adder_tree: no level of the tree loses a bit."""

from functools import partial
from typing import Any

from amaranth.hdl import Signal, signed

from formal.proof import Mode, Proof
from formal.statement import Statement, plain
from hdl.array.adder_tree import AdderTree
from sim.contract.constants import PRODUCT_BITS

EXACT_BITS = 48
"""Far more than any sum here needs."""

SIZES = {"array": (64, PRODUCT_BITS), "depthwise": (9, 24)}
"""(inputs, width): 64 products of a column, and the nine taps of a convolution."""


def exact_sum(s: Statement, values: list[Any]) -> Signal:
    """The sum of signed values, neighbours first, every partial sum in EXACT_BITS bits."""
    while len(values) > 1:
        sums = []
        for index in range(0, len(values), 2):
            partial_sum = Signal(signed(EXACT_BITS), name="partial_sum")
            s.m.d.comb += partial_sum.eq(sum(values[index + 1 : index + 2], values[index]))
            sums.append(partial_sum)
        values = sums
    return values[0]


def write(s: Statement, inputs: int, width: int) -> None:
    """Any inputs, and the sum `latency` cycles later."""
    tree = AdderTree(inputs=inputs, width=width)
    s.unit(tree)
    s.drive(tree.i, "values")
    before = s.past(plain(tree.i), tree.latency)
    values = [before[index * width : (index + 1) * width].as_signed() for index in range(inputs)]
    settled = s.after(tree.latency)
    s.always(~settled | (tree.o == exact_sum(s, values)))
    largest = -(1 << (width - 1)) * inputs
    s.reach(settled & (tree.o == largest))


PROOFS = tuple(
    Proof(
        name=f"adder_tree_{name}",
        says=f"The output is the exact sum of all {inputs} inputs of {width} bits, for all inputs: those of the "
        "declared range are among them.",
        assumes="Nothing.",
        write=partial(write, inputs=inputs, width=width),
        mode=Mode.INDUCTION,
        depth=(inputs - 1).bit_length() + 1,
        reach_depth=(inputs - 1).bit_length() + 2,
    )
    for name, (inputs, width) in SIZES.items()
)
