"""Turns a command of attention into the LOADs and RUNs of its nested loops."""

from typing import Any

from amaranth.hdl import Elaboratable, Module, Mux, Shape, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.attention.geometry import AttentionGeometry
from hdl.attention.loops import Loops
from hdl.sequencer import Opcode, command_layout
from sim.machine.settings import Phase

LOOPS = ("runs", "planes", "groups", "tiles")
"""From the innermost outwards."""


class AttentionSequencer(wiring.Component):
    """Per tile, group and plane one LOAD, then `runs` RUNs of all queries with a LOAD of scales alone in between.

    With `split` there is a LOAD of tables before every RUN, run r from `codebook` + r.
    The first RUN of a tile starts from its bias (with `first`), the last one emits results (with `last`).
    `o_command` feeds hdl.sequencer. `o_keep` goes with a LOAD that takes new scales and leaves the tables as they are.
    `o_mix`: the RUN that is active takes codes of P. `o_outward`: its results are no logits and leave the unit.
    The next command is taken while the last RUN of this one is active, so no cycle is lost between them.
    """

    def __init__(self, geometry: AttentionGeometry) -> None:
        self._geometry = geometry
        super().__init__(
            {
                "i_command": In(stream.Signature(geometry.command_layout)),
                "o_command": Out(stream.Signature(command_layout(geometry.array))),
                "o_keep": Out(1),
                "o_mix": Out(1),
                "o_outward": Out(1),
                "o_idle": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Elaboratable:
        """A step of the loops is a LOAD and a RUN."""
        m = Module()
        limits = self._geometry.command_layout.members
        m.submodules.loops = loops = Loops([(1 << Shape.cast(limits[name]).width) - 1 for name in LOOPS])
        command = self.i_command.payload
        codebook, queries, starts, emits, split = (
            Signal.like(command[name], name=name, reset_less=True)
            for name in ("codebook", "queries", "first", "last", "split")
        )
        first_codebook = Signal.like(codebook, reset_less=True)
        mix, outward = Signal(reset_less=True), Signal(reset_less=True)
        active, running, taken = Signal(), Signal(), Signal()
        output = self.o_command.payload
        begins, ends = loops.first[:3].all(), loops.ends[2]
        first, last = begins & starts, ends & emits
        m.d.comb += [
            self.i_command.ready.eq(~active),
            self.o_idle.eq(~active),
            self.o_command.valid.eq(active),
            taken.eq(active & self.o_command.ready),
            self.o_keep.eq(~loops.first[0] & ~split),
            output.opcode.eq(Mux(running, Opcode.RUN, Opcode.LOAD)),
            output.codebook.eq(codebook),
            output.load_bias.eq(first),
            output.tokens.eq(queries),
            output.first.eq(first),
            output.last.eq(last),
            loops.start.eq(self.i_command.valid & ~active),
            loops.step.eq(taken & running),
        ]
        m.d.comb += [loops.counts[f"loop{number}"].eq(command[name]) for number, name in enumerate(LOOPS)]
        with m.If(loops.start):
            m.d.sync += [
                active.eq(1),
                running.eq(0),
                codebook.eq(command.codebook),
                first_codebook.eq(command.codebook),
                queries.eq(command.queries),
                starts.eq(command.first),
                emits.eq(command.last),
                split.eq(command.split),
                mix.eq(command.phase == Phase.MIX),
                outward.eq(command.phase != Phase.SCORES),
            ]
        with m.If(taken):
            m.d.sync += running.eq(~running)
        with m.If(loops.step):
            m.d.sync += [self.o_mix.eq(mix), self.o_outward.eq(outward), active.eq(~loops.ends[3])]
            m.d.sync += codebook.eq(Mux(loops.ends[0], first_codebook, codebook + split))
        return m
