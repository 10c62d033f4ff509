"""Turns LOAD and RUN commands into sweeps, accepted codes and the control that travels beside them."""

import enum
from typing import Any

from amaranth.hdl import Elaboratable, Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.array.geometry import ArrayGeometry
from hdl.rescale import REVISIT_DISTANCE, control_layout


class Opcode(enum.IntEnum):
    """What a command does."""

    LOAD = 0
    RUN = 1


SHORTEST_RUN = REVISIT_DISTANCE - 1
"""A RUN of fewer tokens waits as if it had this many, so that the next RUN may revisit its tokens at once."""


def command_layout(geometry: ArrayGeometry) -> data.StructLayout:
    """One command; fields a command does not use are ignored."""
    return data.StructLayout(
        {
            "opcode": unsigned(1),
            "codebook": range(geometry.codebooks),
            "load_bias": unsigned(1),
            "tokens": range(geometry.token_depth + 1),
            "first": unsigned(1),
            "last": unsigned(1),
        }
    )


class CommandSequencer(wiring.Component):
    """Executes one command after another; the pipeline is never drained between them.

    LOAD starts a sweep in the cycle of its transfer, which waits for `o_load.ready`, and sends one take_scale (and
    take_bias) down the pipeline as soon as the scales (and biases) are valid. RUN accepts `tokens` codes, one per
    cycle; with `last` only while the output has a credit left. Cycles per command, nobody stalling: see hdl.matmul.

    `o_control` belongs to the codes of the same cycle. `o_quiet`: no command is active and `drain` cycles have
    passed since the last code, take or sweep.
    """

    def __init__(self, geometry: ArrayGeometry, *, credits: int, drain: int) -> None:
        self._geometry = geometry
        self._credits = credits
        self._drain = drain
        super().__init__(
            {
                "i_command": In(stream.Signature(command_layout(geometry))),
                "o_load": Out(stream.Signature(range(geometry.codebooks))),
                "loader_busy": In(1),
                "scale_valid": In(1),
                "scale_taken": In(1),
                "bias_valid": In(1),
                "bias_taken": In(1),
                "codes_valid": In(1),
                "codes_ready": Out(1),
                "output_taken": In(1),
                "o_control": Out(control_layout(geometry)),
                "o_quiet": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Elaboratable:
        """One state machine, and counters for tokens, credits and the drain."""
        m = Module()
        command, control = self.i_command.payload, self.o_control
        remaining = Signal(range(self._geometry.token_depth + 1))
        padding = Signal(range(SHORTEST_RUN + 1))
        token = Signal(range(self._geometry.token_depth))
        first, last, more = Signal(), Signal(), Signal()
        take_scale, take_bias, taking = Signal(), Signal(), Signal()
        scale_pending, bias_pending = Signal(), Signal()
        credits = Signal(range(self._credits + 1), init=self._credits)
        accepted, spent = Signal(), Signal()

        m.d.comb += [
            self.o_load.payload.eq(command.codebook),
            accepted.eq(self.codes_valid & self.codes_ready),
            spent.eq(accepted & last),
            control.valid.eq(accepted),
            control.first.eq(first),
            control.last.eq(last),
            control.token.eq(token),
            control.take_scale.eq(taking),
            control.take_bias.eq(taking & take_bias),
        ]
        m.d.sync += credits.eq(credits + self.output_taken - spent)
        # A taken scale stays valid on its stream until the last column group has it: not to be taken twice.
        m.d.sync += [
            scale_pending.eq((scale_pending & ~self.scale_taken) | taking),
            bias_pending.eq((bias_pending & ~self.bias_taken) | (taking & take_bias)),
        ]
        with m.If(taking):
            m.d.sync += take_scale.eq(0)

        with m.FSM() as machine:
            with m.State("IDLE"):
                m.d.comb += self.i_command.ready.eq((command.opcode == Opcode.RUN) | self.o_load.ready)
                m.d.comb += self.o_load.valid.eq(self.i_command.valid & (command.opcode == Opcode.LOAD))
                with m.If(self.i_command.valid & self.i_command.ready):
                    m.d.sync += [
                        take_bias.eq(command.load_bias),
                        remaining.eq(command.tokens),
                        more.eq(command.tokens != 0),
                        padding.eq(Mux(command.tokens < SHORTEST_RUN, SHORTEST_RUN - command.tokens, 0)),
                        token.eq(0),
                        first.eq(command.first),
                        last.eq(command.last),
                    ]
                    with m.If(command.opcode == Opcode.RUN):
                        m.next = "RUN"
                    with m.Else():
                        m.d.sync += take_scale.eq(1)
                        m.next = "LOAD"
            with m.State("LOAD"):
                m.d.comb += taking.eq(
                    take_scale & self.scale_valid & ~scale_pending & (~take_bias | (self.bias_valid & ~bias_pending))
                )
                with m.If(~take_scale & ~self.loader_busy):
                    m.next = "IDLE"
            with m.State("RUN"):
                m.d.comb += self.codes_ready.eq(more & (~last | (credits != 0)))
                with m.If(accepted):
                    m.d.sync += [token.eq(token + 1), remaining.eq(remaining - 1), more.eq(remaining != 1)]
                    with m.If((remaining == 1) & (padding == 0)):
                        m.next = "IDLE"
                with m.If(~more):
                    m.d.sync += padding.eq(padding - 1)
                    with m.If(padding == 1):
                        m.next = "IDLE"

        draining = Signal(range(self._drain + 1))
        with m.If(~machine.ongoing("IDLE") | self.loader_busy):
            m.d.sync += draining.eq(self._drain)
        with m.Elif(draining != 0):
            m.d.sync += draining.eq(draining - 1)
        m.d.comb += self.o_quiet.eq(machine.ongoing("IDLE") & (draining == 0))
        return m
