"""hdl.vector.credit_fifo: promises are kept, and results come out as they went in."""

from functools import partial

from amaranth.hdl import Signal

from formal.proof import Mode, Proof
from formal.queue import FollowedWord, keeps_contract
from formal.statement import Opened, Statement
from hdl.vector.credit_fifo import CreditFifo

DEPTHS = (2, 5, 14)
"""The least, an odd one, and one of the size that the units use."""


def write(s: Statement, depth: int) -> None:
    """Promises, their words in a model that only counts, and how the FIFO's registers follow from it."""
    fifo = CreditFifo(4, depth=depth)
    opened = Opened(fifo)
    pointer_bits = (depth - 1).bit_length()
    place = Signal(pointer_bits)
    stored_word = opened.memory("storage", place)
    s.unit(fifo)
    s.drive(fifo.o.ready, "ready")
    store, spend = s.drive(fifo.store, "store"), s.drive(fifo.spend, "spend")
    word = s.drive(fifo.word, "word")
    leaves = Signal()
    promised = Signal(range(depth + 1))
    s.m.d.comb += leaves.eq(fifo.o.valid & fifo.o.ready)
    s.m.d.sync += promised.eq(promised + spend - store)
    s.assume(~spend | fifo.o_room)
    s.assume(~store | (promised != 0))

    followed = FollowedWord(s, enters=store, word_in=word, leaves=leaves, word_out=fifo.o.payload, most=depth)
    keeps_contract(s, fifo.o)
    s.always(promised + followed.inside <= depth)
    s.always(fifo.o.valid == (followed.inside != 0))
    # A place may be promised again two cycles after its word has left: one to come back, one to be seen.
    returned = s.past(leaves)
    free = Signal(range(depth + 1))
    s.m.d.comb += free.eq(depth - promised - followed.inside - returned)
    s.always(fifo.o_room == (free != 0))
    s.always(fifo.o_empty == (free == depth))
    s.reach(s.after(1) & fifo.o_empty & s.past(leaves, 2))

    read_pointer = opened.variable("read_pointer")
    filled = Signal(pointer_bits)
    s.m.d.comb += [place.eq(read_pointer + followed.ahead), filled.eq(read_pointer + followed.inside)]
    s.always(opened.variable("level") == followed.inside)
    s.always(opened.variable("credits") == free)
    s.always(opened.variable("returned") == returned)
    s.always(opened.variable("write_pointer") == filled)
    s.always(promised + followed.inside + returned <= depth)
    s.always(~followed.followed | (stored_word == followed.word))


PROOFS = tuple(
    Proof(
        name=f"credit_fifo_{depth}",
        says="Stream contract on `o`; words leave unchanged and in order; promises and words together never exceed the "
        "depth; a place is promised again two cycles after its word was taken; `o_empty` says that nothing is inside.",
        assumes="A promise is taken only with `o_room`, and each is stored once, in a later cycle.",
        write=partial(write, depth=depth),
        mode=Mode.INDUCTION,
        depth=3,
        reach_depth=depth + 8,
    )
    for depth in DEPTHS
)
