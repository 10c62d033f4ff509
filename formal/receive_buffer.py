"""hdl.link.receive_buffer: bytes off the wire come out as they went in, and none is refused while there is room."""

from typing import Any

from amaranth.hdl import Mux, Signal

from formal.proof import Mode, Proof
from formal.queue import FollowedWord, keeps_contract
from formal.statement import Opened, Statement
from hdl.link.receive_buffer import ReceiveBuffer

DEPTH = 16


def write(s: Statement) -> None:
    """A block memory, its output register and a stream register: up to DEPTH + 1 bytes."""
    buffer = ReceiveBuffer(depth=DEPTH)
    opened = Opened(buffer)
    fifo, register = opened.part("fifo"), opened.part("register")
    words = DEPTH - 1
    place = Signal(range(words))
    stored_word = fifo.memory("storage", place)
    s.unit(buffer)
    s.drive(buffer.o.ready, "ready")
    s.drive(buffer.i.valid, "valid")
    s.drive(buffer.i.payload, "word")
    enters, leaves = Signal(), Signal()
    s.m.d.comb += [enters.eq(buffer.i.valid & buffer.i.ready), leaves.eq(buffer.o.valid & buffer.o.ready)]
    followed = FollowedWord(
        s, enters=enters, word_in=buffer.i.payload, leaves=leaves, word_out=buffer.o.payload, most=DEPTH + 1
    )
    keeps_contract(s, buffer.o)
    s.always((followed.inside >= words) | buffer.i.ready)

    def wrapped(value: Any) -> Any:
        return Mux(value >= words, value - words, value)

    unit, held = fifo.unit, register.unit.o
    level, consume, produce = (fifo.variable(name) for name in ("inner_level", "consume", "produce"))
    in_front = Signal(range(3))
    s.m.d.comb += [
        in_front.eq(held.valid + unit.r_rdy),
        place.eq(wrapped(consume + followed.ahead - in_front)),
    ]
    s.always(consume < words)
    s.always(level <= words)
    s.always(produce == wrapped(consume + level))
    s.always(followed.inside == level + in_front)
    s.always(~followed.followed | (followed.ahead < in_front) | (stored_word == followed.word))
    front_word = Mux(held.valid & (followed.ahead == 0), held.payload.as_value(), unit.r_data)
    s.always(~followed.followed | (followed.ahead >= in_front) | (front_word == followed.word))


PROOFS = (
    Proof(
        name="receive_buffer_16",
        says="Stream contract on `o`; bytes leave unchanged and in order; `i` is ready while fewer than depth - 1 "
        "bytes are inside.",
        assumes="Nothing of the source. Depth 16, the least.",
        write=write,
        mode=Mode.INDUCTION,
        depth=3,
        reach_depth=DEPTH + 12,
    ),
)
