"""A memory on the chip: as many beats as it is given, one request per cycle, a fixed latency."""

from collections.abc import Iterable
from typing import Any

from amaranth.hdl import Elaboratable, Module, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In

from hdl.memory.port import MemoryPort
from hdl.parameters import require
from hdl.pipeline import delay

LATENCY_MAX = 64


class OnChipMemory(wiring.Component):
    """`beats` beats behind a memory port (hdl.memory.port); addresses from `beats` on answer with an error.

    Throughput: one request per cycle, always ready. Latency from a read to its response: `latency` cycles.

    port: signature of the port. beats: 1..2**address_bits. latency: 1..64. init: the first beats, the rest is 0.
    Portable: whatever the synthesis tool makes of an array with one port to read and one to write.
    Raises ValueError naming the parameter, its limit and the nearest valid value.
    """

    def __init__(self, port: MemoryPort, *, beats: int, latency: int = 1, init: Iterable[int] = ()) -> None:
        limit = 1 << port.address_bits
        self._beats = require("beats", beats, range(1, limit + 1), f"in 1..2**address_bits = {limit}")
        self._latency = require("latency", latency, range(1, LATENCY_MAX + 1), f"in 1..{LATENCY_MAX}")
        self.storage = memory.Memory(shape=port.beat_bits, depth=beats, init=init)
        super().__init__({"port": In(port)})

    @staticmethod
    def model(content: list[int], requests: Iterable[tuple[int, int | None]]) -> list[tuple[int, bool]]:
        """Responses (data, error) to requests (address, data to write or None to read); changes `content`."""
        responses: list[tuple[int, bool]] = []
        for address, written in requests:
            outside = address >= len(content)
            if written is None:
                responses.append((0, True) if outside else (content[address], False))
            elif not outside:
                content[address] = written
        return responses

    def elaborate(self, platform: Any) -> Elaboratable:
        """The range is checked in the cycle of the request."""
        m = Module()
        m.submodules.storage = storage = self.storage
        write, read = storage.write_port(), storage.read_port()
        request = self.port.request.payload
        inside, asked = Signal(), Signal()
        m.d.comb += [
            self.port.request.ready.eq(1),
            inside.eq(request.address < self._beats),
            asked.eq(self.port.request.valid & ~request.write),
            write.en.eq(self.port.request.valid & request.write & inside),
            write.addr.eq(request.address),
            write.data.eq(request.data),
            read.en.eq(1),
            read.addr.eq(request.address),
            self.port.response.valid.eq(delay(m, asked, self._latency, "asked", reset_less=False)),
            self.port.response.payload.data.eq(delay(m, read.data, self._latency - 1, "word")),
            self.port.response.payload.error.eq(~delay(m, inside, self._latency, "inside")),
        ]
        with m.If(self.port.request.valid & request.write & ~inside):
            m.d.sync += self.port.error.eq(1)
        return m
