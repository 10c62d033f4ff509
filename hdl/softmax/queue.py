"""Short queues whose writers hold credits, and the counters of credits."""

from typing import Any

from amaranth.hdl import Elaboratable, Module, Signal, signed
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out


class Credits(wiring.Component):
    """Counts `credits` places: `available` while there is one; `spend` takes one, `refund` gives one back.

    Both may happen in the same cycle; the caller spends only what is available. The counter holds one less than the
    number of free places, so that its sign alone says that there is none.
    Raises ValueError when credits is below 1.
    """

    def __init__(self, credits: int) -> None:
        if credits < 1:
            raise ValueError(f"credits={credits} must be at least 1; nearest valid value: 1")
        self._credits = credits
        super().__init__({"spend": In(1), "refund": In(1), "available": Out(1)})

    def elaborate(self, platform: Any) -> Elaboratable:
        """One up-down counter."""
        m = Module()
        free = Signal(signed((self._credits - 1).bit_length() + 1), init=self._credits - 1)
        m.d.comb += self.available.eq(~free[-1])
        with m.If(self.spend & ~self.refund):
            m.d.sync += free.eq(free - 1)
        with m.Elif(self.refund & ~self.spend):
            m.d.sync += free.eq(free + 1)
        return m


class CreditQueue(wiring.Component):
    """A queue of `depth` payloads without a ready towards its writer, who counts the free places (Credits).

    A payload of `i` is taken in every cycle with `i_valid` and is on `o` two cycles later at the earliest. One payload
    per cycle. Distributed RAM and a register behind it, so that its reader sees no path through the memory.
    Raises ValueError when depth is no power of two.
    """

    def __init__(self, shape: Any, *, depth: int) -> None:
        if depth < 2 or depth & (depth - 1):
            nearest = max(2, 1 << max(0, depth - 1).bit_length())
            raise ValueError(f"depth={depth} must be a power of two from 2 up; nearest valid value: {nearest}")
        self._shape = shape
        self._depth = depth
        super().__init__({"i_valid": In(1), "i": In(shape), "o": Out(stream.Signature(shape))})

    def elaborate(self, platform: Any) -> Elaboratable:
        """Pointers with one bit more than the address: equal ones mean empty."""
        m = Module()
        m.submodules.storage = storage = memory.Memory(shape=self._shape, depth=self._depth, init=[])
        write, read = storage.write_port(), storage.read_port(domain="comb")
        written, fetched = Signal(range(2 * self._depth)), Signal(range(2 * self._depth))
        waiting, fetch = Signal(), Signal()
        m.d.comb += [
            write.en.eq(self.i_valid),
            write.addr.eq(written),
            write.data.eq(self.i),
            read.addr.eq(fetched),
            waiting.eq(written != fetched),
            fetch.eq(~self.o.valid | self.o.ready),
        ]
        m.d.sync += written.eq(written + self.i_valid)
        with m.If(fetch):
            m.d.sync += [self.o.valid.eq(waiting), self.o.payload.eq(read.data), fetched.eq(fetched + waiting)]
        return m
