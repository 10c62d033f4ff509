"""hdl.output_fifo: tokens whose column groups arrive one after another leave whole and in order."""

from functools import partial
from typing import Any

from amaranth.hdl import Cat, Mux, Signal

from formal.proof import Mode, Proof
from formal.queue import FollowedWord, keeps_contract
from formal.statement import Opened, Statement
from hdl.array.geometry import ArrayGeometry
from hdl.output_fifo import OutputFifo

GEOMETRY = ArrayGeometry(rows=16, columns=4, loader_rows=8, column_group=2)
"""Two column groups: the second one's results come a cycle after the first one's."""

DEPTHS = (2, 5)


def write(s: Statement, depth: int) -> None:
    """Tokens under way count as soon as their first group is there; whole ones are followed."""
    fifo = OutputFifo(GEOMETRY, depth=depth)
    opened = Opened(fifo)
    place, arriving = (Signal(range(depth), name=name) for name in ("place", "arriving"))
    groups = [opened.memory(f"group{group}", place) for group in range(2)]
    fresh = opened.memory("group0", arriving)
    s.unit(fifo)
    s.drive(fifo.o.ready, "ready")
    enters = s.drive(fifo.i_valid, "enters")
    s.drive(fifo.wide, "wide")
    first, second = fifo.wide.as_value()[: len(fresh)], fifo.wide.as_value()[len(fresh) :]
    leaves = Signal()
    s.m.d.comb += leaves.eq(fifo.o.valid & fifo.o.ready)
    half_way = s.past(enters)
    earlier_first = s.past(first)

    followed = FollowedWord(
        s,
        enters=half_way,
        word_in=Cat(earlier_first, second),
        leaves=leaves,
        word_out=fifo.o.payload,
        most=depth,
    )
    s.assume(~enters | (followed.inside + half_way < depth))
    keeps_contract(s, fifo.o)
    s.always(followed.inside + half_way <= depth)
    s.always(fifo.o.valid == (followed.inside != 0))
    s.always(fifo.o_taken == leaves)
    s.always(fifo.o_empty == (followed.inside == 0))

    def wrapped(value: Any) -> Any:
        return Mux(value >= depth, value - depth, value)

    read_pointer, write_pointer = opened.variable("read_pointer"), opened.variable("write_pointer")
    s.m.d.comb += [place.eq(wrapped(read_pointer + followed.ahead)), arriving.eq(s.past(write_pointer))]
    s.always(read_pointer < depth)
    s.always(write_pointer == wrapped(read_pointer + followed.inside + half_way))
    s.always(opened.variable("level") == followed.inside)
    s.always(opened.variable("enables")[1] == half_way)
    s.always(~half_way | (opened.variable("pointers")[1] == s.past(write_pointer)))
    s.always(~half_way | (s.past(write_pointer) == wrapped(read_pointer + followed.inside)))
    s.always(~half_way | (fresh == earlier_first))
    s.always(~followed.followed | (Cat(*groups) == followed.word))


PROOFS = tuple(
    Proof(
        name=f"output_fifo_{depth}",
        says="Stream contract on `o`; tokens leave whole, unchanged and in order, each group's results taken in its "
        "own cycle; a token is on `o` as soon as its last group is stored; `o_taken` pulses per transfer.",
        assumes="At most `depth` tokens between the first group's results and the transfer on `o`: what the proof of "
        "the sequencer gives. Two column groups of two columns.",
        write=partial(write, depth=depth),
        mode=Mode.INDUCTION,
        depth=3,
        reach_depth=depth + 6,
    )
    for depth in DEPTHS
)
