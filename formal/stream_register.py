"""hdl.link.token: the register in a byte stream."""

from amaranth.hdl import Signal

from formal.proof import Mode, Proof
from formal.queue import FollowedWord, keeps_contract
from formal.statement import Statement
from hdl.link.token import StreamRegister, Token


def write(s: Statement) -> None:
    """A queue of one."""
    register = StreamRegister(Token)
    s.unit(register)
    s.drive(register.o.ready, "ready")
    s.drive(register.i.valid, "valid")
    s.drive(register.i.payload, "word")
    enters, leaves = Signal(), Signal()
    s.m.d.comb += [
        enters.eq(register.i.valid & register.i.ready),
        leaves.eq(register.o.valid & register.o.ready),
    ]
    followed = FollowedWord(
        s, enters=enters, word_in=register.i.payload, leaves=leaves, word_out=register.o.payload, most=1
    )
    keeps_contract(s, register.o)
    s.always(register.o.valid == (followed.inside != 0))
    s.always(register.i.ready == (followed.inside == 0))
    s.always(~followed.followed | (register.o.payload.as_value() == followed.word))


PROOFS = (
    Proof(
        name="stream_register",
        says="Stream contract on `o`; words leave unchanged and in order, one cycle after they came in.",
        assumes="Nothing: the source may even withdraw what it offered.",
        write=write,
        mode=Mode.INDUCTION,
        depth=3,
        reach_depth=6,
    ),
)
