"""From the reader to the ports: counts payloads, and sends each beat through the gearbox of its port."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from amaranth.hdl import Elaboratable, Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.machine.fault import FAULT_LAYOUT
from hdl.machine.gearbox import Join, Split, WeightsJoin, check_payload
from hdl.machine.jobs import BODY_BITS, DELIVERY_LAYOUT, PAYLOADS_BITS, PORT_BITS, SIZE_BITS, Beats
from sim.machine.faults import Fault


@dataclass(frozen=True)
class Weights:
    """The operand whose beats may be turned. rows, columns: nibbles of a payload. straight, turned: port numbers."""

    rows: int
    columns: int
    straight: int
    turned: int


class Delivery(wiring.Component):
    """Payloads of READs and SENDs to three kinds of ports, one job after another.

    - `i_job`, `i_beat`: of the reader. `o_narrow`: payloads up to a beat, in its low bytes; `o_wide`: those of several
      beats; `o_weights`: weights. Each waits for its port in a register, and everything behind waits for that.
    - A job gives as many payloads as it says, 0 meaning all that its beats hold. What is left of its beats is dropped,
      an incomplete payload as well. A SEND of n bytes gives as many payloads as n bytes begin, filled up with zeros.
    - Payloads of one port keep their order; a payload enters its register only when those before it are in theirs.
      Between two jobs narrow ports get a cycle of rest, for tables that take a cycle to be written.
    - `fault`: MEMORY where a beat could not be read; nothing is delivered from then on, nor with `halt`.
    - `o_where`: number of the command in progress, or of the last one. `o_idle`: no job is in progress.

    Throughput: one beat per cycle while the port takes what it holds. inputs: payload bytes of the ports by number.
    Raises ValueError when they are no power of two.
    """

    def __init__(self, beats: Beats, *, inputs: Mapping[int, int], weights: Weights) -> None:
        self._beats, self._weights = beats, weights
        self._turnable = (weights.straight, weights.turned)
        self._inputs = {port: check_payload(size) for port, size in inputs.items()}
        sizes = [size for port, size in self._inputs.items() if port not in self._turnable]
        self._parts = max(max(sizes) // beats.bytes, 1)
        narrow = data.StructLayout({"data": unsigned(beats.bits), "last": unsigned(1), "port": unsigned(PORT_BITS)})
        wide = data.StructLayout({"data": unsigned(beats.bits * self._parts), "port": unsigned(PORT_BITS)})
        # How the beats of a job are to be taken; set when it begins.
        self._settings_layout = data.StructLayout(
            {
                "log_size": range(beats.offset_bits + 1),
                "last_part": range(max(self._parts, 2)),
                "wide": unsigned(1),
                "weighing": unsigned(1),
                "turned": unsigned(1),
                "payloads": unsigned(SIZE_BITS),
                "body_beats": range(beats.per_command + 1),
            }
        )
        super().__init__(
            {
                "halt": In(1),
                "i_job": In(stream.Signature(DELIVERY_LAYOUT)),
                "i_beat": In(stream.Signature(beats.beat_layout)),
                "o_narrow": Out(stream.Signature(narrow)),
                "o_wide": Out(stream.Signature(wide)),
                "o_weights": Out(stream.Signature(unsigned(4 * weights.rows * weights.columns))),
                "fault": Out(FAULT_LAYOUT),
                "o_where": Out(FAULT_LAYOUT["where"].shape),
                "o_idle": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Elaboratable:
        """A job in registers; payloads are counted when their beats are taken, not when they leave."""
        m = Module()
        beats = self._beats
        m.submodules.split = split = Split(beats, unsigned(PORT_BITS))
        m.submodules.join = join = Join(beats, unsigned(PORT_BITS), parts=self._parts)
        m.submodules.weights = weights = WeightsJoin(beats, rows=self._weights.rows, columns=self._weights.columns)
        wiring.connect(m, split.o, wiring.flipped(self.o_narrow))
        wiring.connect(m, join.o, wiring.flipped(self.o_wide))
        wiring.connect(m, weights.o, wiring.flipped(self.o_weights))

        job, starting, settings = self.i_job.payload, Signal(self._settings_layout), Signal(self._settings_layout)
        busy, first, send, unlimited = Signal(), Signal(), Signal(), Signal()
        port, left = Signal(PORT_BITS), Signal(PAYLOADS_BITS)
        body, body_left = Signal(BODY_BITS), Signal(range(beats.per_command + 1))
        part = Signal(range(max(self._parts, 2)))
        arrived, taken, kept, room, exhausted = Signal(), Signal(), Signal(), Signal(), Signal()
        beat = Signal(beats.beat_layout)
        failed = busy & ~send & self.i_beat.valid & self.i_beat.payload.error
        m.d.comb += [
            beat.eq(self.i_beat.payload),
            arrived.eq(busy & (send | self.i_beat.valid) & ~failed & ~self.halt),
            exhausted.eq(~unlimited & (left == 0)),
            taken.eq(arrived & (room | exhausted)),
            kept.eq(arrived & ~exhausted),
            self.i_beat.ready.eq(taken & ~send),
            self.i_job.ready.eq(~busy | (taken & beat.final)),
            self.o_idle.eq(~busy),
        ]
        with m.If(send):
            m.d.comb += [beat.data.eq(body), beat.last.eq(0), beat.final.eq(body_left == 1)]
        with m.If(failed):
            m.d.comb += [self.fault.kind.eq(Fault.MEMORY), self.fault.where.eq(self.o_where)]

        per_beat, used = Signal(range(beats.bytes + 1)), Signal(range(beats.bytes + 1))
        part_final = Signal()
        m.d.comb += [
            per_beat.eq(beats.bytes >> settings.log_size),
            part_final.eq(part == settings.last_part),
            split.i.payload.data.eq(beat.data),
            split.i.payload.last.eq(beat.last),
            split.i.payload.log_size.eq(settings.log_size),
            split.i.payload.count.eq(used),
            split.i.payload.port.eq(port),
            join.i.payload.data.eq(beat.data),
            join.i.payload.final.eq(part_final),
            join.i.payload.port.eq(port),
            weights.i.payload.data.eq(beat.data),
            weights.i.payload.turned.eq(settings.turned),
        ]
        with m.If(settings.weighing):
            m.d.comb += [weights.i.valid.eq(kept), room.eq(weights.i.ready), used.eq(weights.o_final)]
        with m.Elif(settings.wide):
            m.d.comb += [join.i.valid.eq(kept), room.eq(join.i.ready), used.eq(part_final)]
        with m.Else():
            m.d.comb += [
                room.eq(Mux(first, split.empty, split.i.ready)),
                split.i.valid.eq(kept & room),
                used.eq(Mux(unlimited | (left >= per_beat), per_beat, left)),
            ]
        begun = Signal()
        m.d.comb += begun.eq(self.i_job.valid & self.i_job.ready)
        # An incomplete payload is forgotten when the next job begins.
        m.d.comb += [join.drop.eq(begun), weights.drop.eq(begun)]
        with m.If(taken):
            m.d.sync += [first.eq(0), body.eq(body >> beats.bits), body_left.eq(body_left - 1)]
            m.d.sync += part.eq(Mux(part_final, 0, part + 1))
            with m.If(beat.final):
                m.d.sync += busy.eq(0)
            with m.If(~exhausted):
                m.d.sync += left.eq(left - used)
        self._settings(m, starting)
        with m.If(begun):
            payloads = job.body[BODY_BITS - PAYLOADS_BITS :]
            m.d.sync += [
                busy.eq(1),
                first.eq(1),
                part.eq(0),
                send.eq(job.send),
                port.eq(job.port),
                body.eq(job.body),
                body_left.eq(starting.body_beats),
                unlimited.eq(~job.send & (payloads == 0)),
                left.eq(Mux(job.send, starting.payloads, payloads)),
                settings.eq(starting),
                self.o_where.eq(job.where),
            ]
        return m

    def _settings(self, m: Module, settings: Any) -> None:
        """How the beats of the job on `i_job` are to be taken."""
        job, beat_bytes = self.i_job.payload, self._beats.bytes
        with m.Switch(job.port):
            for port, size in self._inputs.items():
                begun = (job.size + (size - 1)) >> (size.bit_length() - 1)
                with m.Case(port):
                    m.d.comb += settings.payloads.eq(begun)
                    if size > beat_bytes:
                        m.d.comb += settings.body_beats.eq(begun << (size // beat_bytes).bit_length() - 1)
                    else:
                        m.d.comb += settings.body_beats.eq((job.size + (beat_bytes - 1)) >> self._beats.offset_bits)
                    if port in self._turnable:
                        m.d.comb += [settings.weighing.eq(1), settings.turned.eq(port == self._weights.turned)]
                    elif size > beat_bytes:
                        m.d.comb += [settings.wide.eq(1), settings.last_part.eq(size // beat_bytes - 1)]
                    else:
                        m.d.comb += settings.log_size.eq(size.bit_length() - 1)
