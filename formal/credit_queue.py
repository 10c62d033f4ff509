"""hdl.softmax.queue: a queue without a ready towards its writer, and the credits that stand in for it."""

from functools import partial

from amaranth.hdl import Mux, Signal

from formal.proof import Mode, Proof
from formal.queue import FollowedWord, keeps_contract
from formal.statement import Opened, Statement
from hdl.softmax.queue import CreditQueue, Credits

DEPTHS = (2, 8)


def write(s: Statement, depth: int) -> None:
    """Queue and credits as the softmax unit wires them: a credit per word from its promise until it is taken."""
    queue, credits = CreditQueue(4, depth=depth), Credits(depth)
    opened, counter = Opened(queue), Opened(credits)
    place = Signal(range(depth))
    stored_word = opened.memory("storage", place)
    s.unit(queue, "queue")
    s.unit(credits, "credits")
    s.drive(queue.o.ready, "ready")
    spend, store = s.drive(credits.spend, "spend"), s.drive(queue.i_valid, "store")
    word = s.drive(queue.i, "word")
    leaves = Signal()
    promised = Signal(range(depth + 2))
    s.m.d.comb += [leaves.eq(queue.o.valid & queue.o.ready), credits.refund.eq(leaves)]
    s.m.d.sync += promised.eq(promised + spend - store)
    s.assume(~spend | credits.available)
    s.assume(~store | (promised != 0) | spend)

    followed = FollowedWord(s, enters=store, word_in=word, leaves=leaves, word_out=queue.o.payload, most=depth)
    keeps_contract(s, queue.o)
    s.always(promised + followed.inside <= depth)
    s.always(credits.available == (promised + followed.inside != depth))
    # A word is on `o` two cycles after it came in, or as soon as those before it have left.
    s.always(queue.o.valid == (s.past(followed.inside - leaves) != 0))
    s.reach(~credits.available & (followed.inside == 0))

    fetched, written = opened.variable("fetched"), opened.variable("written")
    expected = Signal(range(2 * depth))
    s.m.d.comb += [
        place.eq(fetched + followed.ahead - queue.o.valid),
        expected.eq(fetched + followed.inside - queue.o.valid),
    ]
    s.always(written == expected)
    s.always(counter.variable("free") + 1 + promised + followed.inside == depth)
    s.always(~queue.o.valid | (followed.inside != 0))
    in_register = queue.o.valid & (followed.ahead == 0)
    s.always(~followed.followed | (Mux(in_register, queue.o.payload, stored_word) == followed.word))


PROOFS = tuple(
    Proof(
        name=f"credit_queue_{depth}",
        says="Stream contract on `o`; words leave unchanged and in order; with one credit per place, credits are "
        "available exactly while promises and words are fewer than the depth, and never exceed it; a word is on `o` "
        "two cycles after it came in.",
        assumes="A credit is spent only when available, at the latest in the cycle in which its word comes in, and "
        "comes back when the word is taken.",
        write=partial(write, depth=depth),
        mode=Mode.INDUCTION,
        depth=3,
        reach_depth=depth + 6,
    )
    for depth in DEPTHS
)
