"""The end of a pipeline that never stops: a FIFO that promises a place before a value may enter."""

from typing import Any

from amaranth.hdl import Elaboratable, Module, Shape, Signal
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.vector.parameters import require


class CreditFifo(wiring.Component):
    """`depth` places for results of `shape`, each promised when a value enters the pipeline in front.

    The pipeline accepts a value that will become a result only while `o_room`, and raises `spend` in that cycle;
    the result comes with `store`, any time later, and always finds its place. `o_empty`: no promise is open and
    nothing waits. A result is on `o` one cycle after `store`. A pipeline whose results are on `o` n cycles after
    their value was accepted runs at one per cycle with a depth of n + 1.

    Distributed RAM. Raises ValueError when depth is outside 2..64.
    """

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
        """Two pointers, the number of words stored, and the number of places not promised."""
        m = Module()
        write_pointer, read_pointer = Signal(range(self._depth)), Signal(range(self._depth))
        level, credits = Signal(range(self._depth + 1)), Signal(range(self._depth + 1), init=self._depth)
        left = Signal(range(self._depth + 1))
        room, taken = Signal(init=1), Signal()
        m.submodules.storage = storage = memory.Memory(shape=self._width, depth=self._depth, init=[])
        write, read = storage.write_port(), storage.read_port(domain="comb")

        def advance(pointer: Signal) -> None:
            with m.If(pointer == self._depth - 1):
                m.d.sync += pointer.eq(0)
            with m.Else():
                m.d.sync += pointer.eq(pointer + 1)

        with m.If(self.store):
            advance(write_pointer)
        with m.If(taken):
            advance(read_pointer)
        m.d.comb += [
            write.en.eq(self.store),
            write.addr.eq(write_pointer),
            write.data.eq(_plain(self.word)),
            read.addr.eq(read_pointer),
            _plain(self.o.payload).eq(read.data),
            self.o.valid.eq(level != 0),
            taken.eq(self.o.valid & self.o.ready),
            left.eq(credits + taken - self.spend),
            self.o_room.eq(room),
            self.o_empty.eq(credits == self._depth),
        ]
        m.d.sync += [level.eq(level + self.store - taken), credits.eq(left), room.eq(left != 0)]
        return m


def _plain(value: Any) -> Any:
    return value.as_value() if hasattr(value, "as_value") else value
