"""What any queue owes to its words: none lost, none twice, none out of order, none that never came in."""

from typing import Any

from amaranth.hdl import Signal, ValueLike

from formal.statement import Statement, plain


class FollowedWord:
    """Follows one word, whichever the prover picks, from where it enters a queue to where it leaves.

    It must leave as it came in when as many words have left as were inside before it. This for any word, together
    with `inside` never below zero, says that the words that left are the words that came in, in their order.
    """

    def __init__(
        self, s: Statement, *, enters: ValueLike, word_in: Any, leaves: ValueLike, word_out: Any, most: int
    ) -> None:
        """most: words that the queue can hold."""
        word_in, word_out = plain(word_in), plain(word_out)
        counts = range(most + 2)
        self.inside = Signal(counts, name="inside")
        self.ahead = Signal(counts, name="ahead")
        self.followed = Signal(name="followed")
        self.word = Signal(len(word_in), name="followed_word")
        pick = s.free("follow_this_one")
        s.m.d.sync += self.inside.eq(self.inside + enters - leaves)
        with s.m.If(self.followed & leaves):
            s.m.d.sync += self.ahead.eq(self.ahead - 1)
            with s.m.If(self.ahead == 0):
                s.m.d.sync += self.followed.eq(0)
        with s.m.If(enters & pick & ~self.followed):
            s.m.d.sync += [self.followed.eq(1), self.ahead.eq(self.inside - leaves), self.word.eq(word_in)]
        s.always(~plain(leaves) | (self.inside != 0))
        s.always(self.inside <= most)
        s.always(~self.followed | (self.ahead < self.inside))
        s.always(~(self.followed & leaves & (self.ahead == 0)) | (word_out == self.word))
        # Not only one word, but the second to leave after it was picked, and the picked one itself.
        s.reach(self.followed & leaves & (self.ahead == 0) & (self.word != 0))
        s.reach(self.followed & leaves & (self.ahead == most - 1))


def keeps_contract(s: Statement, stream: Any) -> None:
    """Claim the stream contract of a source: what is offered stays, unchanged, until it is taken."""
    waiting = s.past(stream.valid & ~stream.ready)
    s.always(~(s.after(1) & waiting) | stream.valid)
    s.always(~(s.after(1) & waiting) | (plain(stream.payload) == s.past(plain(stream.payload))))


def assume_contract(s: Statement, stream: Any) -> None:
    """Assume the stream contract of the source that feeds a unit."""
    waiting = s.past(stream.valid & ~stream.ready)
    s.assume(~(s.after(1) & waiting) | stream.valid)
    s.assume(~(s.after(1) & waiting) | (plain(stream.payload) == s.past(plain(stream.payload))))
