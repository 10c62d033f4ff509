"""The end of a pipeline that never stops: a FIFO that promises a place before a value may enter."""

from typing import Any

from amaranth.hdl import Elaboratable, Module, Mux, Shape, Signal
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.parameters import require


class CreditFifo(wiring.Component):
    """`depth` places for results of `shape`, each promised when a value enters the pipeline in front.

    The pipeline accepts a value that will become a result only while `o_room`, and raises `spend` in that cycle;
    the result comes with `store`, any time later, and always finds its place. `o_empty`: no promise is open and
    nothing waits. A result is on `o` one cycle after `store`, and a place may be promised again two cycles after its
    result was taken. A pipeline whose results are on `o` n cycles after their value was accepted runs at one per cycle
    with a depth of n + TURNAROUND.

    Distributed RAM. Raises ValueError when depth is outside 2..64.
    """

    TURNAROUND = 2

    def __init__(self, shape: Any, *, depth: int) -> None:
        self._width = Shape.cast(shape).width
        self._depth = require("depth", depth, range(2, 65), "in 2..64")
        super().__init__(
            {
                "spend": In(1),
                "o_room": Out(1),
                "o_empty": Out(1),
                "store": In(1),
                "word": In(shape),
                "o": Out(stream.Signature(shape)),
            }
        )

    @staticmethod
    def model(words: list[Any]) -> list[Any]:
        """The same words in the same order."""
        return list(words)

    def elaborate(self, platform: Any) -> Elaboratable:
        """Two pointers, the number of words stored, and the number of places not promised.

        What others see first, `o.valid` and `o_room`, comes from registers of its own, not from a comparison.
        """
        m = Module()
        # A power of two of words, so that pointers wrap by themselves.
        pointer_bits = (self._depth - 1).bit_length()
        write_pointer = Signal(pointer_bits)
        read_pointer = Signal(pointer_bits)
        level = Signal(range(self._depth + 1))
        credits = Signal(range(self._depth + 1), init=self._depth)
        room = Signal(init=1)
        valid = Signal()
        taken = Signal()
        returned = Signal()
        m.submodules.storage = storage = memory.Memory(shape=self._width, depth=1 << pointer_bits, init=[])
        write, read = storage.write_port(), storage.read_port(domain="comb")

        m.d.comb += [
            write.en.eq(self.store),
            write.addr.eq(write_pointer),
            write.data.eq(_plain(self.word)),
            read.addr.eq(read_pointer),
            _plain(self.o.payload).eq(read.data),
            self.o.valid.eq(valid),
            taken.eq(valid & self.o.ready),
            self.o_room.eq(room),
            self.o_empty.eq(credits == self._depth),
        ]
        m.d.sync += [
            write_pointer.eq(write_pointer + self.store),
            read_pointer.eq(read_pointer + taken),
            level.eq(level + self.store - taken),
            valid.eq(self.store | (valid & ~(taken & (level == 1)))),
            returned.eq(taken),
            credits.eq(credits + returned - self.spend),
            room.eq(returned | Mux(self.spend, credits > 1, credits != 0)),
        ]
        return m


def _plain(value: Any) -> Any:
    return value.as_value() if hasattr(value, "as_value") else value
