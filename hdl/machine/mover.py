"""Everything of the machine but the units: commands from memory, payloads to ports, results to memory."""

from collections.abc import Mapping
from typing import Any, Final

from amaranth.hdl import Cat, Elaboratable, Module, Signal, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.machine.arbiter import Arbiter
from hdl.machine.control import Control
from hdl.machine.delivery import Delivery, Weights
from hdl.machine.fault import KIND_BITS
from hdl.machine.fetch import Fetch
from hdl.machine.gearbox import PayloadsToBeats
from hdl.machine.jobs import ADDRESS_BITS, Beats, payload_layout
from hdl.machine.reader import Reader
from hdl.machine.routes import RECORD_BYTES, Routes
from hdl.machine.writer import Writer
from hdl.memory.near import NearMemory
from hdl.memory.port import MemoryPort
from hdl.parameters import require
from sim.machine.commands import COMMAND_BYTES
from sim.machine.faults import Fault
from sim.machine.ports import Port

PATIENCE: Final = 1 << 16
"""Cycles without progress after which the machine gives up."""


class Mover(wiring.Component):
    """Runs programs of sim.machine.commands on external and near memory; `to_N` feeds port N, `from_N` empties it.

    Weights leave on the port of `weights.straight`, turned ones as well. Port.ROUTE is the mover's own: with `routes`,
    beats of an output go to an input instead of memory. Near memory is inside.

    `i_start` begins the program at address 0 when no program runs and no error is kept. `writable`: first byte that a
    WRITE may touch, constant while a program runs. `o_done`: the program has reached STOP, until the next start.
    `o_error`: kind of the first error (sim.machine.faults), `o_where`: byte address of its command; both until reset.
    From an error on nothing is requested of memory but the one request that may already wait there.

    inputs, outputs: payload bytes of the ports by number. routes: output to input, whose payloads are beats. depth:
    beats of READs under way. patience: of the watchdog. Raises ValueError naming the parameter, its limit and the
    nearest valid value.
    """

    def __init__(
        self,
        beats: Beats,
        *,
        inputs: Mapping[int, int],
        outputs: Mapping[int, int],
        weights: Weights,
        routes: Mapping[int, int],
        depth: int = 32,
        patience: int = PATIENCE,
    ) -> None:
        self._beats, self._weights, self._depth, self._patience = beats, weights, depth, patience
        self._inputs, self._outputs = {**inputs, Port.ROUTE: RECORD_BYTES}, dict(outputs)
        self._routes = Routes(beats, routes)
        for port in self._routes.inputs:
            require(f"payload bytes of port {port}", inputs[port], (beats.bytes,), "a beat, as beats are led there")
        super().__init__(
            {
                "i_start": In(1),
                "writable": In(ADDRESS_BITS),
                "memory": Out(MemoryPort(address_bits=beats.port_bits, beat_bits=beats.bits)),
                **{
                    f"to_{port}": Out(stream.Signature(payload_layout(size)))
                    for port, size in inputs.items()
                    if port != weights.turned
                },
                **{f"from_{port}": In(stream.Signature(unsigned(8 * size))) for port, size in outputs.items()},
                "o_done": Out(1),
                "o_error": Out(KIND_BITS),
                "o_where": Out(ADDRESS_BITS),
            }
        )

    def elaborate(self, platform: Any) -> Elaboratable:
        """The parts, and who waits for whom."""
        m = Module()
        beats = self._beats
        m.submodules.fetch = fetch = Fetch(beats)
        m.submodules.control = control = Control(
            beats,
            inputs=self._inputs,
            outputs=list(self._outputs),
            routed=self._routes.sources,
            patience=self._patience,
        )
        m.submodules.routes = routes = self._routes
        m.submodules.reader = reader = Reader(beats, depth=self._depth)
        m.submodules.delivery = delivery = Delivery(beats, inputs=self._inputs, weights=self._weights)
        m.submodules.writer = writer = Writer(beats, sources=len(self._outputs))
        m.submodules.arbiter = arbiter = Arbiter(beats, outstanding=self._depth + fetch.places)
        wiring.connect(m, fetch.o, control.i)
        wiring.connect(m, control.o_read, reader.i)
        wiring.connect(m, control.o_write, writer.i)
        wiring.connect(m, reader.o_job, delivery.i_job)
        wiring.connect(m, reader.o_beat, delivery.i_beat)
        wiring.connect(m, writer.request, arbiter.write)
        wiring.connect(m, reader.request, arbiter.read)
        wiring.connect(m, fetch.request, arbiter.fetch)
        wiring.connect(m, arbiter.read_response, reader.response)
        wiring.connect(m, arbiter.fetch_response, fetch.response)
        wiring.connect(m, arbiter.port, wiring.flipped(self.memory))
        if beats.near:
            m.submodules.near = near = NearMemory(beats=beats.near, beat_bits=beats.bits)
            wiring.connect(m, writer.near_request, near.write)
            wiring.connect(m, reader.near_request, near.read)
            wiring.connect(m, near.o, reader.near_beat)

        fault = control.o_fault
        m.d.comb += [
            control.start.eq(self.i_start),
            fetch.start.eq(control.o_start),
            routes.clear.eq(control.o_start),
            fetch.stop.eq(control.o_stop),
            reader.halt.eq(control.o_halt),
            writer.halt.eq(control.o_halt),
            delivery.halt.eq(control.o_halt),
            writer.lowest.eq((self.writable + (beats.bytes - 1)) >> beats.offset_bits),
            control.write_idle.eq(writer.o_idle),
            control.read_idle.eq(reader.o_idle & delivery.o_idle),
            control.quiet.eq(fetch.o_idle & arbiter.o_empty),
            control.stuck_where.eq(delivery.o_where),
            self.o_done.eq(control.o_done),
            self.o_error.eq(fault.kind),
            self.o_where.eq(fault.where << (COMMAND_BYTES.bit_length() - 1)),
        ]
        with m.If(writer.fault.kind != 0):
            m.d.comb += control.fault.eq(writer.fault)
        with m.Elif(delivery.fault.kind != 0):
            m.d.comb += control.fault.eq(delivery.fault)
        with m.Elif(reader.fault.kind != 0):
            m.d.comb += control.fault.eq(reader.fault)
        with m.Elif(self.memory.error):
            m.d.comb += [control.fault.kind.eq(Fault.MEMORY), control.fault.where.eq(writer.o_where)]
        self._connect_inputs(m, delivery)
        self._connect_outputs(m, writer)
        moved = [
            *(self.memory.request, self.memory.response, writer.near_request, reader.near_request),
            *(delivery.o_narrow, delivery.o_wide, delivery.o_weights),
        ]
        m.d.comb += control.progress.eq(Cat(routes.o_moved, *(port.valid & port.ready for port in moved)).any())
        return m

    def _connect_inputs(self, m: Module, delivery: Delivery) -> None:
        """The register of a kind of payload to whichever port it is for."""
        for port, size in self._inputs.items():
            if port in (self._weights.straight, self._weights.turned):
                continue
            if port == Port.ROUTE:
                own = self._routes.i_route
            elif port in self._routes.inputs:
                own = getattr(self._routes, f"given_{port}")
                wiring.connect(m, getattr(self._routes, f"to_{port}"), wiring.flipped(getattr(self, f"to_{port}")))
            else:
                own = getattr(self, f"to_{port}")
            given = delivery.o_narrow if size <= self._beats.bytes else delivery.o_wide
            chosen = Signal(name=f"chosen{port}")
            m.d.comb += [
                chosen.eq(given.payload.port == port),
                own.valid.eq(given.valid & chosen),
                own.payload.data.eq(given.payload.data),
            ]
            if size <= self._beats.bytes:
                m.d.comb += own.payload.last.eq(given.payload.last)
            with m.If(chosen):
                m.d.comb += given.ready.eq(own.ready)
        if self._weights.straight in self._inputs:
            own = getattr(self, f"to_{self._weights.straight}")
            m.d.comb += [
                own.valid.eq(delivery.o_weights.valid),
                own.payload.data.eq(delivery.o_weights.payload),
                delivery.o_weights.ready.eq(own.ready),
            ]

    def _connect_outputs(self, m: Module, writer: Writer) -> None:
        """Payloads of every output as beats, to the writer or past it."""
        for number, (port, size) in enumerate(self._outputs.items()):
            m.submodules[f"beats{port}"] = gearbox = PayloadsToBeats(self._beats, payload_bytes=size)
            wiring.connect(m, wiring.flipped(getattr(self, f"from_{port}")), gearbox.i)
            given = gearbox.o
            if port in self._routes.sources:
                wiring.connect(m, given, getattr(self._routes, f"from_{port}"))
                given = getattr(self._routes, f"write_{port}")
            wiring.connect(m, given, getattr(writer, f"i{number}"))
