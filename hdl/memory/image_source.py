"""A second port for what is only ever read: a program's image comes from a source of its own, not from memory."""

from collections.abc import Iterable
from typing import Any

from amaranth.hdl import Elaboratable, Module, Mux, Signal, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.memory.port import MemoryPort, response_layout
from hdl.parameters import require
from hdl.vector.credit_fifo import CreditFifo

DEPTH_MAX = 32


class ImageSource(wiring.Component):
    """A memory port in front of two: beats below `image` are the source's, the others those of a memory whose address
    0 is beat `image`.

    - `port`: of the machine, `memory`: of external memory, both hdl.memory.port.
    - `source`: addresses of beats to read; `i`: a response to each, in order. As at a memory port, a response is taken
      in the cycle that offers it.
    - `image`: steady while requests are under way.

    A write below `image` changes nothing and sets the line `port.error`.

    Responses come in the order of the reads, whichever of the two answers first: `depth` places for either hold what
    came early. Throughput: one request per cycle. Latency: one cycle to the memory or the source and one
    back; reads at full rate need a depth of the longer latency behind this component + 1 + CreditFifo.TURNAROUND.

    port: signature of both memory ports. depth: 2..32. Distributed RAM.
    Raises ValueError naming the parameter, its limit and the nearest valid value.
    """

    def __init__(self, port: MemoryPort, *, depth: int = 16) -> None:
        self._depth = require("depth", depth, range(2, DEPTH_MAX + 1), f"in 2..{DEPTH_MAX}")
        self._response = response_layout(beat_bits=port.beat_bits)
        address = unsigned(port.address_bits)
        super().__init__(
            {
                "port": In(port),
                "memory": Out(port),
                "source": Out(stream.Signature(address)),
                "i": In(stream.Signature(self._response)),
                "image": In(address),
            }
        )

    @staticmethod
    def model(image: list[int], content: list[int], requests: Iterable[tuple[int, int | None]]) -> list[int]:
        """What is read by requests (address, beat to write or None to read); changes `content`, the memory's beats.

        Addresses must be inside, and writes not below the image.
        """
        found = []
        for address, written in requests:
            inside = address - len(image)
            if written is not None:
                content[inside] = written
            else:
                found.append(image[address] if inside < 0 else content[inside])
        return found

    def elaborate(self, platform: Any) -> Elaboratable:
        """A register in front, so that the subtraction stands alone between two registers."""
        m = Module()
        m.submodules.early_memory = early_memory = CreditFifo(self._response, depth=self._depth)
        m.submodules.early_source = early_source = CreditFifo(self._response, depth=self._depth)
        # A place here is promised and given back with one of the two above, so that it needs no look at its room.
        m.submodules.order = order = CreditFifo(unsigned(1), depth=2 * self._depth)

        asked, sent = self.port.request, self.memory.request
        held, of_source, leaving = Signal(), Signal(), Signal()
        address = Signal.like(asked.payload.address)
        to_memory, to_source, lost = Signal(), Signal(), Signal()
        m.d.comb += [
            asked.ready.eq(~held | leaving),
            to_memory.eq(held & ~of_source & (sent.payload.write | early_memory.o_room)),
            to_source.eq(held & of_source & ~sent.payload.write & early_source.o_room),
            lost.eq(held & of_source & sent.payload.write),
            sent.valid.eq(to_memory),
            self.source.valid.eq(to_source),
            self.source.payload.eq(address),
            leaving.eq((to_memory & sent.ready) | (to_source & self.source.ready) | lost),
            early_memory.spend.eq(to_memory & sent.ready & ~sent.payload.write),
            early_source.spend.eq(to_source & self.source.ready),
            order.spend.eq(early_memory.spend | early_source.spend),
            order.store.eq(order.spend),
            order.word.eq(of_source),
        ]
        with m.If(asked.ready):
            m.d.sync += [
                held.eq(asked.valid),
                of_source.eq(asked.payload.address < self.image),
                address.eq(asked.payload.address),
                sent.payload.address.eq(asked.payload.address - self.image),
                sent.payload.write.eq(asked.payload.write),
                sent.payload.data.eq(asked.payload.data),
            ]
        failed = Signal()
        with m.If(lost):
            m.d.sync += failed.eq(1)

        # Who answers next stands in a register: no response is there before it is.
        turn, known = Signal(), Signal()
        answer, taken = self.port.response, Signal()
        with m.If(order.o.ready):
            m.d.sync += [turn.eq(order.o.payload), known.eq(order.o.valid)]
        m.d.comb += [
            self.port.error.eq(self.memory.error | failed),
            self.memory.response.ready.eq(1),
            self.i.ready.eq(1),
            early_memory.store.eq(self.memory.response.valid),
            early_memory.word.eq(self.memory.response.payload),
            early_source.store.eq(self.i.valid),
            early_source.word.eq(self.i.payload),
            answer.valid.eq(known & Mux(turn, early_source.o.valid, early_memory.o.valid)),
            answer.payload.as_value().eq(
                Mux(turn, early_source.o.payload.as_value(), early_memory.o.payload.as_value())
            ),
            taken.eq(answer.valid & answer.ready),
            order.o.ready.eq(taken | ~known),
            early_source.o.ready.eq(taken & turn),
            early_memory.o.ready.eq(taken & ~turn),
        ]
        return m
