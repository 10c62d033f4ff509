"""Turns a command of attention into the LOADs and RUNs of its nested loops."""

from typing import Any

from amaranth.hdl import Elaboratable, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.attention.geometry import AttentionGeometry, Phase
from hdl.sequencer import Opcode, command_layout

LOOPS = ("runs", "planes", "groups", "tiles")
"""From the innermost outwards."""


class AttentionSequencer(wiring.Component):
    """Per tile, group and plane one LOAD, then `runs` RUNs of all queries with a LOAD of scales alone in between.

    `o_command` feeds hdl.sequencer. `o_keep` goes with a LOAD that takes new scales and leaves the tables as they are.
    The first RUN of a tile starts from its bias, the last emits results. `o_phase`: of the RUN that is active.
    The next command is taken while the last RUN of this one is active, so no cycle is lost between them.
    """

    def __init__(self, geometry: AttentionGeometry) -> None:
        self._geometry = geometry
        super().__init__(
            {
                "i_command": In(stream.Signature(geometry.command_layout)),
                "o_command": Out(stream.Signature(command_layout(geometry.array))),
                "o_keep": Out(1),
                "o_phase": Out(1),
                "o_idle": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Elaboratable:
        """Four counters; a step is a LOAD and a RUN."""
        m = Module()
        command = Signal(self._geometry.command_layout, reset_less=True)
        counters = [Signal.like(command[name], name=f"{name}_done", reset_less=True) for name in LOOPS]
        ends = [Signal(name=f"{name}_end") for name in LOOPS]
        active, running = Signal(), Signal()
        output, taken = self.o_command.payload, Signal()
        first = ~counters[0].any() & ~counters[1].any() & ~counters[2].any()
        m.d.comb += [
            self.i_command.ready.eq(~active),
            self.o_idle.eq(~active),
            self.o_command.valid.eq(active),
            taken.eq(active & self.o_command.ready),
            self.o_keep.eq(counters[0].any()),
            output.opcode.eq(Mux(running, Opcode.RUN, Opcode.LOAD)),
            output.codebook.eq(command.codebook),
            output.load_bias.eq(first),
            output.tokens.eq(command.queries),
            output.first.eq(first),
            output.last.eq(ends[2]),
        ]
        with m.If(self.i_command.valid & ~active):
            m.d.sync += [command.eq(self.i_command.payload), active.eq(1), running.eq(0)]
            m.d.sync += [counter.eq(0) for counter in counters]
        inner: Any = 1
        for name, counter, end in zip(LOOPS, counters, ends, strict=True):
            m.d.comb += end.eq(inner & (counter == command[name] - 1))
            with m.If(taken & running & inner):
                m.d.sync += counter.eq(Mux(end, 0, counter + 1))
            inner = end
        with m.If(taken):
            m.d.sync += running.eq(~running)
            with m.If(running):
                m.d.sync += [self.o_phase.eq(command.phase == Phase.MIX), active.eq(~ends[-1])]
        return m
