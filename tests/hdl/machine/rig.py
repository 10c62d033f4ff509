"""A mover with an on-chip memory and ports that are read by the test or lead back: runs a program in the simulator."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from amaranth.hdl import Module, Signal
from amaranth.lib import fifo, wiring
from amaranth.sim import Simulator

from hdl.machine.address_loops import AddressLoops
from hdl.machine.delivery import Weights
from hdl.machine.jobs import Beats
from hdl.machine.mover import Mover
from hdl.memory.on_chip import OnChipMemory
from sim.machine.commands import Command, Opcode
from sim.machine.faults import Fault
from sim.machine.ports import Port

BEAT = 16
COPY, SMALL, HALF, WIDE, WEIGHTS, TURNED, SINK, LONG = 1, 2, 6, 3, 4, 5, 7, 8
COPIED, PAIRED, DELAYED = 64, 67, 68
INPUTS = {COPY: 16, SMALL: 4, HALF: 8, WIDE: 32, WEIGHTS: 64, TURNED: 64, SINK: 16, LONG: 16}
OUTPUTS = {COPIED: 16, PAIRED: 8, DELAYED: 16}
"""COPY leads to COPIED, HALF to PAIRED, LONG through a long queue to DELAYED; payloads of the others are recorded."""

ROUTES = {COPIED: SINK, PAIRED: SINK, DELAYED: COPY}
QUEUE = 64

RECORDED = (SMALL, WIDE, WEIGHTS, SINK)


STOP = Command(Opcode.STOP)
WAIT = Command(Opcode.WAIT)


def read(port: int, address: int, counts: Sequence[int], strides: Sequence[int] = (), **fields: Any) -> Command:
    a, b, c, d = (*counts, *[1] * (4 - len(counts)))
    s1, s2, s3 = (*strides, *[0] * (3 - len(strides)))
    command = Command(Opcode.READ, Port(port), address, (a, b, c, d), (s1, s2, s3))
    return replace(command, **fields) if fields else command


def write(port: int, address: int, counts: Sequence[int], strides: Sequence[int] = (), base: int = 0) -> Command:
    command = read(port, address, counts, strides, base=base)
    return replace(command, opcode=Opcode.WRITE)


def beats_of(command: Command) -> list[tuple[int, bool]]:
    """(byte address, last) of every beat."""
    strides = [stride // BEAT for stride in command.strides]
    steps = AddressLoops.model(command.address // BEAT, command.counts, strides, command.token_dims, 28)
    return [(BEAT * address, last) for address, last, _ in steps]


def copied(memory: bytes, reading: Command, writing: Command) -> bytes:
    """Memory after a READ to COPY whose beats a WRITE takes."""
    changed = bytearray(memory)
    for (source, _), (sink, _) in zip(beats_of(reading), beats_of(writing), strict=True):
        changed[sink : sink + BEAT] = memory[source : source + BEAT]
    return bytes(changed)


@dataclass
class Outcome:
    """memory: its bytes. cycles: from start to done or error. payloads: (data, last) by port."""

    memory: bytes
    cycles: int
    fault: Fault
    where: int
    payloads: dict[int, list[tuple[bytes, bool]]] = field(default_factory=dict)


def image(program: Sequence[Command | bytes], tail: bytes, at: int) -> bytes:
    """The program at 0, `tail` at byte `at`."""
    text = b"".join(command if isinstance(command, bytes) else command.encode() for command in program)
    assert len(text) <= at
    return text.ljust(at, b"\0") + tail


def run(
    content: bytes,
    *,
    size: int = 4096,
    real_size: int | None = None,
    writable: int = 2048,
    latency: int = 2,
    stall: float = 0.0,
    refuse: float = 0.0,
    patience: int = 200,
    limit: int = 20000,
    seed: int = 0,
    deaf: bool = False,
    dead_from: int = 1 << 30,
    near: int = 0,
    wide_from: int = 0,
    runs: int = 1,
) -> Outcome:
    """Run the program at address 0 until it is done or stops.

    size, real_size: bytes of memory that the mover believes in, and that there are. stall: of memory's requests.
    dead_from: cycle from which on memory takes none.
    refuse: of the recorded ports, always with `deaf`. near: bytes of near memory. wide_from: cycle before which WIDE
    takes nothing. runs: how often the program is started, once it is done.
    """
    beats = Beats(BEAT, size // BEAT, near // BEAT)
    mover = Mover(
        beats,
        inputs=INPUTS,
        outputs=OUTPUTS,
        routes=ROUTES,
        weights=Weights(16, 8, WEIGHTS, TURNED),
        depth=8,
        patience=patience,
    )
    count = (real_size or size) // BEAT
    words = [int.from_bytes(content[at : at + BEAT], "little") for at in range(0, len(content), BEAT)]
    memory = OnChipMemory(mover.memory.signature, beats=count, latency=latency, init=words)
    m = Module()
    m.submodules += [mover, memory]
    stalled = Signal()
    m.d.comb += [
        memory.port.request.payload.eq(mover.memory.request.payload),
        memory.port.request.valid.eq(mover.memory.request.valid & ~stalled),
        mover.memory.request.ready.eq(memory.port.request.ready & ~stalled),
        mover.memory.error.eq(memory.port.error),
        mover.writable.eq(writable),
    ]
    wiring.connect(m, memory.port.response, mover.memory.response)
    m.submodules.queue = queue = fifo.SyncFIFO(width=8 * BEAT, depth=QUEUE)
    long, delayed = getattr(mover, f"to_{LONG}"), getattr(mover, f"from_{DELAYED}")
    m.d.comb += [
        queue.w_data.eq(long.payload.data),
        queue.w_en.eq(long.valid),
        long.ready.eq(queue.w_rdy),
        delayed.payload.eq(queue.r_data),
        delayed.valid.eq(queue.r_rdy),
        queue.r_en.eq(delayed.ready),
    ]
    for source, sink in ((COPY, COPIED), (HALF, PAIRED)):
        given, taken = getattr(mover, f"to_{source}"), getattr(mover, f"from_{sink}")
        m.d.comb += [
            taken.payload.eq(given.payload.data),
            taken.valid.eq(given.valid),
            given.ready.eq(taken.ready),
        ]
    rng = np.random.default_rng(seed)
    outcome = Outcome(b"", 0, Fault.NONE, 0, {port: [] for port in RECORDED})

    async def complete(ctx: Any) -> None:
        halted = None
        while not ctx.get(mover.o_done) and (halted is None or outcome.cycles < halted + 20):
            ctx.set(stalled, bool(rng.random() < stall) or outcome.cycles >= dead_from)
            ready = {port: not deaf and bool(rng.random() >= refuse) for port in RECORDED}
            ready[WIDE] &= outcome.cycles >= wide_from
            for port, value in ready.items():
                ctx.set(getattr(mover, f"to_{port}").ready, value)
            for port, value in ready.items():
                stream = getattr(mover, f"to_{port}")
                if value and ctx.get(stream.valid):
                    payload = ctx.get(stream.payload)
                    whole = payload.data.to_bytes(INPUTS[port], "little")
                    outcome.payloads[port].append((whole, bool(payload.last)))
            if halted is None and ctx.get(mover.o_error):
                halted = outcome.cycles
            await ctx.tick()
            outcome.cycles += 1
            assert outcome.cycles < limit, "neither done nor stopped"

    async def drive(ctx: Any) -> None:
        for _ in range(runs):
            ctx.set(mover.i_start, 1)
            await ctx.tick()
            ctx.set(mover.i_start, 0)
            await complete(ctx)
        outcome.fault, outcome.where = Fault(ctx.get(mover.o_error)), ctx.get(mover.o_where)
        found = [ctx.get(memory.storage.data[at]) for at in range(count)]
        outcome.memory = b"".join(word.to_bytes(BEAT, "little") for word in found)

    simulator = Simulator(m)
    simulator.add_clock(1e-8)
    simulator.add_testbench(drive)
    simulator.run()
    return outcome
