"""Beats of an output on their way to an input port, instead of memory."""

from collections.abc import Mapping
from typing import Any, Final

from amaranth.hdl import Cat, Elaboratable, Module, Mux, Signal, unsigned
from amaranth.lib import data, fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.machine.jobs import Beats, payload_layout
from hdl.machine.records import assign_record
from sim.machine.ports import RECORDS, Port, record_bytes

RECORD: Final = data.StructLayout({field.name: unsigned(field.bits) for field in RECORDS[Port.ROUTE]})
RECORD_BYTES: Final = 1 << (record_bytes(Port.ROUTE) - 1).bit_length()


class Routes(wiring.Component):
    """Switches between outputs, the writer, the delivery and inputs: ROUTE of docs/machine.md.

    - `i_route`: record of Port.ROUTE, taken at once; a `source` without a route changes nothing. `clear`: all off.
    - `from_N` of every output that may be led away: its beats. They leave on `write_N`, or where the route says.
    - `given_M` of every input that may be led to: payloads of READs and SENDs, each a beat. They leave on `to_M`, and
      wait while a route to M is on.
    - `o_moved`: a beat has left on its way to an input.

    Throughput: one beat per cycle. Latency: none where routes are off; else 1 cycle, and no combinational way from
    an input's `ready` to an output. routes: output number to input number.
    """

    def __init__(self, beats: Beats, routes: Mapping[int, int]) -> None:
        self._beats, self._routes = beats, dict(routes)
        self.sources, self.inputs = tuple(self._routes), tuple(dict.fromkeys(self._routes.values()))
        beat = unsigned(beats.bits)
        self._payload = payload_layout(beats.bytes)
        super().__init__(
            {
                "clear": In(1),
                "i_route": In(stream.Signature(payload_layout(RECORD_BYTES))),
                **{f"from_{source}": In(stream.Signature(beat)) for source in self._routes},
                **{f"write_{source}": Out(stream.Signature(beat)) for source in self._routes},
                **{f"given_{target}": In(stream.Signature(self._payload)) for target in self.inputs},
                **{f"to_{target}": Out(stream.Signature(self._payload)) for target in self.inputs},
                "o_moved": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Elaboratable:
        """A bit per output that says where its beats go, and a queue of two beats in front of every input."""
        m = Module()
        record = Signal(RECORD)
        m.d.comb += [self.i_route.ready.eq(1), *assign_record(Port.ROUTE, record, self.i_route.payload.data)]
        moved = []
        for target in self.inputs:
            on, set_ = Signal(name=f"on_to_{target}"), Signal(name=f"set_{target}")
            coming, last = stream.Signature(self._beats.bits).create(path=(f"coming{target}",)), Signal()
            sources = [source for source, goal in self._routes.items() if goal == target]
            switches = {source: Signal(name=f"on_{source}") for source in sources}
            m.d.comb += [
                on.eq(Cat(switches.values()).any()),
                set_.eq(self.i_route.valid & Cat(record.source == source for source in sources).any()),
            ]
            for source, switch in switches.items():
                given, writing = getattr(self, f"from_{source}"), getattr(self, f"write_{source}")
                m.d.comb += [
                    writing.payload.eq(given.payload),
                    writing.valid.eq(given.valid & ~switch),
                    given.ready.eq(Mux(switch, coming.ready, writing.ready)),
                ]
                with m.If(switch):
                    m.d.comb += [coming.payload.eq(given.payload), coming.valid.eq(given.valid)]
                with m.If(self.clear):
                    m.d.sync += switch.eq(0)
                with m.Elif(self.i_route.valid & (record.source == source)):
                    m.d.sync += switch.eq(record.on)
            self._mark(m, coming, last, set_, record)
            moved.append(self._lead(m, target, coming, last, on))
        m.d.comb += self.o_moved.eq(Cat(moved).any())
        return m

    def _mark(self, m: Module, coming: Any, last: Signal, set_: Signal, record: Any) -> None:
        """`last` with every beat that ends a token: beats left of it are counted down, and stay 0 if none ends."""
        beats, left = Signal.like(record.beats), Signal.like(record.beats)
        m.d.comb += last.eq(left == 1)
        with m.If(set_):
            m.d.sync += [beats.eq(record.beats), left.eq(record.beats)]
        with m.Elif(coming.valid & coming.ready):
            m.d.sync += left.eq(Mux(left > 1, left - 1, beats))

    def _lead(self, m: Module, target: int, coming: Any, last: Signal, on: Signal) -> Any:
        """Beats on their way to an input, or what is given to it; returns whether one of the former leaves."""
        given, own = getattr(self, f"given_{target}"), getattr(self, f"to_{target}")
        m.submodules[f"queue_{target}"] = queue = fifo.SyncFIFO(width=self._payload.size, depth=2)
        m.d.comb += [
            coming.ready.eq(queue.w_rdy),
            queue.w_en.eq(coming.valid),
            queue.w_data.eq(Cat(coming.payload, last)),
            own.payload.as_value().eq(Mux(on, queue.r_data, given.payload.as_value())),
            own.valid.eq(Mux(on, queue.r_rdy, given.valid)),
            queue.r_en.eq(on & own.ready),
            given.ready.eq(~on & own.ready),
        ]
        return queue.r_rdy & queue.r_en
