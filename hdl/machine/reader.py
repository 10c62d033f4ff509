"""READ and SEND: beats of memory on their way to the ports, many under way at once."""

from typing import Any

from amaranth.hdl import Cat, Elaboratable, Module, Mux, Signal, unsigned
from amaranth.lib import fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.machine.address_loops import AddressLoops
from hdl.machine.fault import FAULT_LAYOUT
from hdl.machine.jobs import DELIVERY_LAYOUT, TOKEN_DIMS_BITS, Beats
from hdl.memory.port import response_layout
from hdl.parameters import require
from sim.machine.faults import Fault


def unpack_loops(beats: Beats, move: Any, loops: Any) -> list[Any]:
    """Assignments that give the loops of a checked command (`Beats.move_layout`) to `Beats.loops_layout`."""
    counts = len(loops.counts.as_value())
    stride_bits = beats.address_bits + beats.offset_bits
    assignments = [
        loops.address.eq(move.address),
        loops.counts.as_value().eq(move.body[:counts]),
        loops.token_dims.eq(move.size[:TOKEN_DIMS_BITS]),
        loops.where.eq(move.where),
    ]
    for number in range(len(loops.strides)):
        start = counts + number * stride_bits
        assignments.append(loops.strides[number].eq(move.body[start + beats.offset_bits : start + stride_bits]))
    return assignments


class Reader(wiring.Component):
    """Does READs one after another; SENDs keep their place among them.

    - `i`: checked commands. `o_job`: their deliveries, in order; `o_beat`: the beats of the READs among them.
    - `request`: addresses of beats; `response`: what memory answers, taken at once. At most `depth` beats are between
      the two or wait on `o_beat`, and each has its place reserved.
    - `near_request`, `near_beat`: the same for near memory, which keeps what it has read until it is taken.
    - `fault`: RANGE, in the cycle that finds an address outside memory, and from then on.
    - `halt`: nothing more is asked for.

    Throughput: one beat per cycle where memory answers within `depth` cycles; a READ costs AddressLoops' idle cycle.
    Behind a change of memory a beat waits for those before it, while as many as have places are read ahead.
    depth: 2..512. jobs: deliveries that may wait, 1..64. Raises ValueError naming the parameter, its limit and the
    nearest valid value.
    """

    def __init__(self, beats: Beats, *, depth: int = 32, jobs: int = 8) -> None:
        self._beats = beats
        self._depth = require("depth", depth, range(2, 513), "in 2..512")
        self._jobs = require("jobs", jobs, range(1, 65), "in 1..64")
        super().__init__(
            {
                "halt": In(1),
                "i": In(stream.Signature(beats.move_layout)),
                "request": Out(stream.Signature(unsigned(beats.port_bits))),
                "response": In(stream.Signature(response_layout(beat_bits=beats.bits))),
                "near_request": Out(stream.Signature(unsigned(beats.near_bits))),
                "near_beat": In(stream.Signature(unsigned(beats.bits))),
                "o_job": Out(stream.Signature(DELIVERY_LAYOUT)),
                "o_beat": Out(stream.Signature(beats.beat_layout)),
                "fault": Out(FAULT_LAYOUT),
                "o_idle": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Elaboratable:
        """A command goes to the loops and to the queue of deliveries in the same cycle; a queue of what is under way
        tells which memory the next beat comes from, from a register, before that beat can be there."""
        m = Module()
        move = self.i.payload
        m.submodules.loops = loops = AddressLoops(self._beats)
        m.submodules.jobs = jobs = fifo.SyncFIFOBuffered(width=DELIVERY_LAYOUT.size, depth=self._jobs)
        m.submodules.ends = ends = fifo.SyncFIFOBuffered(width=3, depth=self._depth)
        m.submodules.words = words = fifo.SyncFIFO(width=self._beats.bits + 1, depth=self._depth)
        delivery = Signal(DELIVERY_LAYOUT)
        taken = Signal()
        m.d.comb += [
            self.i.ready.eq(jobs.w_rdy & (move.send | loops.i.ready)),
            taken.eq(self.i.valid & self.i.ready),
            loops.i.valid.eq(taken & ~move.send),
            *unpack_loops(self._beats, move, loops.i.payload),
            *(delivery[name].eq(move[name]) for name in ("send", "port", "size", "body", "where")),
            jobs.w_en.eq(taken),
            jobs.w_data.eq(delivery.as_value()),
            self.o_job.payload.as_value().eq(jobs.r_data),
            self.o_job.valid.eq(jobs.r_rdy),
            jobs.r_en.eq(self.o_job.ready),
        ]
        credits = Signal(range(self._depth + 1), init=self._depth)
        step, asked, delivered, near = loops.o.payload, Signal(), Signal(), Signal()
        allowed = Signal()
        m.d.comb += [
            self.request.payload.eq(step.address),
            self.near_request.payload.eq(self._beats.near_address(step.address)),
            allowed.eq(loops.o.valid & (credits != 0) & ~step.outside & ~self.halt),
            self.request.valid.eq(allowed & ~step.near),
            self.near_request.valid.eq(allowed & step.near),
            asked.eq((self.request.valid & self.request.ready) | (self.near_request.valid & self.near_request.ready)),
            loops.o.ready.eq(asked),
            ends.w_en.eq(asked),
            ends.w_data.eq(Cat(step.last, step.final, step.near)),
            self.response.ready.eq(1),
            words.w_en.eq(self.response.valid),
            words.w_data.eq(Cat(self.response.payload.data, self.response.payload.error)),
            near.eq(ends.r_rdy & ends.r_data[2]),
            self.o_beat.valid.eq(Mux(near, self.near_beat.valid, words.r_rdy)),
            Cat(self.o_beat.payload.data, self.o_beat.payload.error).eq(
                Mux(near, self.near_beat.payload, words.r_data)
            ),
            Cat(self.o_beat.payload.last, self.o_beat.payload.final).eq(ends.r_data),
            delivered.eq(self.o_beat.valid & self.o_beat.ready),
            words.r_en.eq(self.o_beat.ready & ~near),
            self.near_beat.ready.eq(self.o_beat.ready & near),
            ends.r_en.eq(delivered),
            self.o_idle.eq(loops.o_idle & (credits == self._depth) & ~jobs.r_rdy & (jobs.level == 0)),
        ]
        m.d.sync += credits.eq(credits + delivered - asked)
        with m.If(loops.o.valid & step.outside):
            m.d.comb += [self.fault.kind.eq(Fault.RANGE), self.fault.where.eq(step.where)]
        return m
