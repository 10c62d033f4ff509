"""WRITE: beats from the ports of the units into memory."""

from typing import Any

from amaranth.hdl import Array, Elaboratable, Module, Signal, unsigned
from amaranth.lib import data, fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.machine.address_loops import AddressLoops
from hdl.machine.fault import FAULT_LAYOUT
from hdl.machine.jobs import PORT_BITS, Beats
from hdl.machine.reader import unpack_loops
from hdl.parameters import require
from sim.machine.faults import Fault


class Writer(wiring.Component):
    """Does WRITEs one after another, each from one of its sources.

    - `i`: checked commands; their `port` is the number of a source. `i0`, `i1`, ...: the sources.
    - `request`, `near_request`: address and beat. The source's transfer is that of the request.
    - `lowest`: first beat of external memory that may be written. `fault`: RANGE or PROTECTED, in the cycle that finds
      such an address, and from then on. `halt`: nothing more is written. `o_where`: number of the command in progress
      or the last one.
    - `o_idle`: the last beat of every WRITE taken so far has been requested.

    Throughput: one beat per cycle; a WRITE costs AddressLoops' idle cycle.
    sources: 1..64. jobs: WRITEs that may wait, 1..64. Raises ValueError naming the parameter, its limit and the nearest
    valid value.
    """

    def __init__(self, beats: Beats, *, sources: int, jobs: int = 4) -> None:
        self._beats = beats
        self._sources = require("sources", sources, range(1, 65), "in 1..64")
        self._jobs = require("jobs", jobs, range(1, 65), "in 1..64")
        request = data.StructLayout({"address": unsigned(beats.port_bits), "data": unsigned(beats.bits)})
        near = data.StructLayout({"address": unsigned(beats.near_bits), "data": unsigned(beats.bits)})
        super().__init__(
            {
                "halt": In(1),
                "lowest": In(beats.address_bits),
                "i": In(stream.Signature(beats.move_layout)),
                **{f"i{number}": In(stream.Signature(unsigned(beats.bits))) for number in range(sources)},
                "request": Out(stream.Signature(request)),
                "near_request": Out(stream.Signature(near)),
                "fault": Out(FAULT_LAYOUT),
                "o_where": Out(FAULT_LAYOUT["where"].shape),
                "o_idle": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Elaboratable:
        """The loops run two jobs ahead of nothing: the source of a job is noted when they begin it."""
        m = Module()
        layout = data.StructLayout({"loops": self._beats.loops_layout, "source": unsigned(PORT_BITS)})
        m.submodules.loops = loops = AddressLoops(self._beats)
        m.submodules.jobs = jobs = fifo.SyncFIFOBuffered(width=layout.size, depth=self._jobs)
        given, begun = Signal(layout), Signal(layout)
        source = Signal(range(max(self._sources, 2)))
        open_jobs = Signal(range(self._jobs + 4))
        accepted, allowed, written, finished = Signal(), Signal(), Signal(), Signal()
        step = loops.o.payload
        sources = [getattr(self, f"i{number}") for number in range(self._sources)]
        chosen_valid = Array(port.valid for port in sources)[source]
        chosen = Array(port.payload for port in sources)[source]
        m.d.comb += [
            *unpack_loops(self._beats, self.i.payload, given.loops),
            given.source.eq(self.i.payload.port),
            accepted.eq(self.i.valid & jobs.w_rdy),
            self.i.ready.eq(jobs.w_rdy),
            jobs.w_en.eq(self.i.valid),
            jobs.w_data.eq(given.as_value()),
            begun.as_value().eq(jobs.r_data),
            loops.lowest.eq(self.lowest),
            loops.i.payload.eq(begun.loops),
            # The source changes only when the last address of the job before has left.
            loops.i.valid.eq(jobs.r_rdy & loops.o_idle),
            jobs.r_en.eq(loops.i.ready & loops.o_idle),
            allowed.eq(loops.o.valid & chosen_valid & ~step.outside & ~step.below & ~self.halt),
            self.request.valid.eq(allowed & ~step.near),
            self.request.payload.address.eq(step.address),
            self.request.payload.data.eq(chosen),
            self.near_request.valid.eq(allowed & step.near),
            self.near_request.payload.address.eq(self._beats.near_address(step.address)),
            self.near_request.payload.data.eq(chosen),
            written.eq((self.request.valid & self.request.ready) | (self.near_request.valid & self.near_request.ready)),
            loops.o.ready.eq(written),
            finished.eq(written & step.final),
            self.o_idle.eq(open_jobs == 0),
        ]
        for number, port in enumerate(sources):
            m.d.comb += port.ready.eq(written & (source == number))
        m.d.sync += open_jobs.eq(open_jobs + accepted - finished)
        with m.If(jobs.r_rdy & jobs.r_en):
            m.d.sync += [source.eq(begun.source), self.o_where.eq(begun.loops.where)]
        with m.If(loops.o.valid & (step.outside | step.below)):
            m.d.comb += self.fault.where.eq(step.where)
            with m.If(step.outside):
                m.d.comb += self.fault.kind.eq(Fault.RANGE)
            with m.Else():
                m.d.comb += self.fault.kind.eq(Fault.PROTECTED)
        return m
