"""Three users of one memory port: writer over reader over command fetch."""

from typing import Any

from amaranth.hdl import Elaboratable, Module, Signal, unsigned
from amaranth.lib import data, fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.machine.jobs import Beats
from hdl.memory.port import MemoryPort, response_layout
from hdl.parameters import require


class Arbiter(wiring.Component):
    """Requests of the first user that has one; responses to whoever asked.

    `write` carries address and beat, `read` and `fetch` addresses. Responses are offered to the user for one cycle: it
    has room for what it asked. `o_empty`: every request taken so far has been accepted by memory.

    Throughput: one request per cycle. Latency: 1 cycle to memory, none back. outstanding: most reads under way,
    2..1024. Raises ValueError naming the parameter, its limit and the nearest valid value.
    """

    def __init__(self, beats: Beats, *, outstanding: int) -> None:
        self._outstanding = require("outstanding", outstanding, range(2, 1025), "in 2..1024")
        address = unsigned(beats.port_bits)
        write = data.StructLayout({"address": address, "data": unsigned(beats.bits)})
        answer = stream.Signature(response_layout(beat_bits=beats.bits))
        super().__init__(
            {
                "write": In(stream.Signature(write)),
                "read": In(stream.Signature(address)),
                "fetch": In(stream.Signature(address)),
                "read_response": Out(answer),
                "fetch_response": Out(answer),
                "port": Out(MemoryPort(address_bits=beats.port_bits, beat_bits=beats.bits)),
                "o_empty": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Elaboratable:
        """One register in front of memory, and a queue of one bit per read under way."""
        m = Module()
        m.submodules.order = order = fifo.SyncFIFO(width=1, depth=self._outstanding)
        request, response = self.port.request, self.port.response
        free, reading, fetching = Signal(), Signal(), Signal()
        m.d.comb += [
            free.eq(~request.valid | request.ready),
            self.write.ready.eq(free),
            self.read.ready.eq(free & ~self.write.valid & order.w_rdy),
            self.fetch.ready.eq(free & ~self.write.valid & ~self.read.valid & order.w_rdy),
            reading.eq(self.read.valid & self.read.ready),
            fetching.eq(self.fetch.valid & self.fetch.ready),
            order.w_en.eq(reading | fetching),
            order.w_data.eq(fetching),
            order.r_en.eq(response.valid),
            response.ready.eq(1),
            self.read_response.payload.eq(response.payload),
            self.fetch_response.payload.eq(response.payload),
            self.read_response.valid.eq(response.valid & ~order.r_data),
            self.fetch_response.valid.eq(response.valid & order.r_data),
            self.o_empty.eq(~request.valid),
        ]
        with m.If(free):
            m.d.sync += [
                request.valid.eq(self.write.valid | reading | fetching),
                request.payload.write.eq(self.write.valid),
                request.payload.data.eq(self.write.payload.data),
            ]
            with m.If(self.write.valid):
                m.d.sync += request.payload.address.eq(self.write.payload.address)
            with m.Elif(self.read.valid):
                m.d.sync += request.payload.address.eq(self.read.payload)
            with m.Else():
                m.d.sync += request.payload.address.eq(self.fetch.payload)
        return m
