"""Checks commands, hands them out, waits, and keeps the first error."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from amaranth.hdl import Array, Cat, Const, Elaboratable, Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.machine.fault import FAULT_LAYOUT, KIND_BITS
from hdl.machine.fetch import FETCHED_LAYOUT
from hdl.machine.jobs import ADDRESS_BITS, Beats
from hdl.machine.routes import RECORD, RECORD_BYTES
from hdl.parameters import require
from sim.machine.commands import BASES, COMMAND_BYTES, DIMENSIONS, SEND_BYTES_MAX, Opcode
from sim.machine.faults import Fault
from sim.machine.ports import Port

PATIENCE_MAX: Final = 1 << 24


class Control(wiring.Component):
    """One command after another: READ and SEND to the reader, WRITE to the writer; WAIT, STOP and errors here.

    - `start` begins a program when none runs and no error is kept. `o_done`: STOP was reached, everything before it has
      been done and nothing is under way; until the next start.
    - `i`: fetched commands. `o_read`, `o_write`: checked ones; the port of a WRITE is the number of its source.
    - `read_idle`, `write_idle`, `quiet` (nothing under way to memory, fetch included): what WAIT and STOP wait for.
    - `fault`: of the other parts, kind 0 for none. `progress`: something moved. `stuck_where`: number of the command
      that is to blame if nothing does; used where no command waits here.
    - `o_fault`: the first error, until reset. `o_halt`: from the cycle after an error on. `o_stop`: no command is
      needed any more.

    Throughput: one command per cycle. Latency: 1 cycle.
    inputs: payload bytes of the input ports by number. outputs: numbers of the output ports, sources in this order.
    routed: those that Port.ROUTE may lead away; a SEND of one record of it is all that it takes.
    patience: cycles without progress that the watchdog allows, 16..2**24.
    """

    def __init__(
        self,
        beats: Beats,
        *,
        inputs: Mapping[int, int],
        outputs: Sequence[int],
        routed: Collection[int],
        patience: int,
    ) -> None:
        self._beats = beats
        self._inputs, self._outputs, self._routed = dict(inputs), list(outputs), list(routed)
        self._patience = require("patience", patience, range(16, PATIENCE_MAX + 1), "in 16..2**24")
        super().__init__(
            {
                "start": In(1),
                "i": In(stream.Signature(FETCHED_LAYOUT)),
                "o_read": Out(stream.Signature(beats.move_layout)),
                "o_write": Out(stream.Signature(beats.move_layout)),
                "read_idle": In(1),
                "write_idle": In(1),
                "quiet": In(1),
                "fault": In(FAULT_LAYOUT),
                "progress": In(1),
                "stuck_where": In(FAULT_LAYOUT["where"].shape),
                "o_start": Out(1),
                "o_stop": Out(1),
                "o_halt": Out(1),
                "o_done": Out(1),
                "o_fault": Out(FAULT_LAYOUT),
            }
        )

    def elaborate(self, platform: Any) -> Elaboratable:
        """A command is checked on its way into a register; from there it is handed out."""
        m = Module()
        checked = data.StructLayout(
            {
                "move": self._beats.move_layout,
                **{opcode.name: unsigned(1) for opcode in Opcode},
                "kind": unsigned(KIND_BITS),
            }
        )
        self._bases = [Signal(ADDRESS_BITS, name=f"base{number}") for number in range(1, BASES + 1)]
        held, valid, done = Signal(checked), Signal(), Signal()
        running, stopped = Signal(), Signal()
        ending = held.STOP & (held.kind == 0)
        fault = self.o_fault
        m.d.comb += [
            self.o_halt.eq(fault.kind != 0),
            self.o_start.eq(self.start & ~running & ~self.o_halt),
            self.o_stop.eq(stopped | self.o_halt),
            # Nothing behind STOP is a command.
            self.i.ready.eq((~valid | (done & ~ending)) & ~self.o_stop),
            self.o_read.payload.eq(held.move),
            self.o_write.payload.eq(held.move),
        ]
        arriving = Signal(checked)
        self._check(m, arriving)
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [held.eq(arriving), valid.eq(1)]
            self._next_round(m, arriving.REPEAT)
        with m.Elif(done):
            m.d.sync += valid.eq(0)
        with m.If(valid & ~self.o_halt & (held.kind == 0)):
            with m.If(held.READ | held.SEND):
                m.d.comb += [self.o_read.valid.eq(1), done.eq(self.o_read.ready)]
            with m.Elif(held.WRITE):
                m.d.comb += [self.o_write.valid.eq(1), done.eq(self.o_write.ready)]
            with m.Elif(held.WAIT):
                m.d.comb += done.eq(self.write_idle)
            with m.Elif(held.REPEAT):
                m.d.comb += done.eq(1)
            with m.Else():
                m.d.comb += done.eq(self.write_idle & self.read_idle)
                m.d.sync += stopped.eq(done)
        with m.If(self.o_start):
            m.d.sync += [running.eq(1), self.o_done.eq(0)]
        # What STOP still waits for may fail or never come: until then errors are kept and the watchdog counts.
        with m.If(stopped & self.quiet & ~self.o_halt & (self.fault.kind == 0)):
            m.d.sync += [running.eq(0), stopped.eq(0), self.o_done.eq(1)]
        self._keep_first_fault(m, held, valid, done, running)
        return m

    def _check(self, m: Module, arriving: Any) -> None:
        """The command on `i`, and the kind of its error."""
        fetched, beats = self.i.payload, self._beats
        command, move = fetched.command, arriving.move
        address, bases = Signal(ADDRESS_BITS), [Const(0, ADDRESS_BITS), *self._bases]
        is_input, is_output, source, fits = Signal(), Signal(), Signal.like(move.port), Signal()
        with m.Switch(command.port):
            for number, size in self._inputs.items():
                with m.Case(number):
                    m.d.comb += [is_input.eq(1), fits.eq(size <= COMMAND_BYTES)]
            for number, port in enumerate(self._outputs):
                with m.Case(port):
                    m.d.comb += [is_output.eq(1), source.eq(number)]
        for opcode in Opcode:
            m.d.comb += arriving[opcode.name].eq(command.opcode == opcode)
        body = command.as_value()[len(command.as_value()) - len(move.body) :]
        m.d.comb += [
            move.send.eq(arriving.SEND),
            move.port.eq(Mux(arriving.WRITE, source, command.port)),
            move.size.eq(command.size),
            address.eq(command.address + Mux(command.base < len(bases), Array(bases)[command.base], 0)),
            move.address.eq(address[beats.offset_bits :]),
            move.body.eq(body),
            move.where.eq(fetched.where),
        ]
        moving = arriving.READ | arriving.WRITE
        offsets = [address, *command.strides]
        misaligned = 0
        for offset in offsets:
            misaligned = misaligned | offset[: beats.offset_bits].any()
        empty = 0
        for count in command.counts:
            empty = empty | (count == 0)
        leading = command.port == Port.ROUTE
        strange = Mux(arriving.WRITE, ~is_output, ~is_input | Mux(arriving.SEND, ~fits, leading))
        source_known = Cat(RECORD(body[: RECORD.size]).source == port for port in self._routed).any()
        unled = leading & (~source_known | (command.size > RECORD_BYTES))
        too_long = Mux(arriving.SEND, (command.size == 0) | (command.size > SEND_BYTES_MAX), command.size > DIMENSIONS)
        nowhere = empty | (command.base > BASES)
        with m.If(fetched.error & ~fetched.outside):
            m.d.comb += arriving.kind.eq(Fault.MEMORY)
        with m.Elif(fetched.outside):
            m.d.comb += arriving.kind.eq(Fault.RANGE)
        with m.Elif(~Cat(arriving[opcode.name] for opcode in Opcode).any()):
            m.d.comb += arriving.kind.eq(Fault.OPCODE)
        with m.Elif((moving | arriving.SEND) & strange):
            m.d.comb += arriving.kind.eq(Fault.PORT)
        with m.Elif(fetched.refused | (moving & nowhere) | ((moving | arriving.SEND) & too_long) | unled):
            m.d.comb += arriving.kind.eq(Fault.FIELD)
        with m.Elif(moving & misaligned):
            m.d.comb += arriving.kind.eq(Fault.ALIGNMENT)

    def _next_round(self, m: Module, repeat: Any) -> None:
        """A REPEAT has been taken: the next command finds the base registers of its round."""
        fetched = self.i.payload
        steps = fetched.command.as_value()[-ADDRESS_BITS * BASES :]
        with m.If(repeat):
            for number, base in enumerate(self._bases):
                step = steps.word_select(number, ADDRESS_BITS)
                m.d.sync += base.eq(Mux(fetched.again, base + step, 0))
        with m.If(self.o_start):
            m.d.sync += [base.eq(0) for base in self._bases]

    def _keep_first_fault(self, m: Module, held: Any, valid: Any, done: Any, watched: Any) -> None:
        """Errors of the other parts concern earlier commands, so they come first."""
        waited = Signal(range(self._patience + 1))
        with m.If(self.progress | done | ~watched):
            m.d.sync += waited.eq(0)
        with m.Elif(waited != self._patience):
            m.d.sync += waited.eq(waited + 1)
        with m.If((self.o_fault.kind == 0) & watched):
            with m.If(self.fault.kind != 0):
                m.d.sync += self.o_fault.eq(self.fault)
            with m.Elif(valid & (held.kind != 0)):
                m.d.sync += [self.o_fault.kind.eq(held.kind), self.o_fault.where.eq(held.move.where)]
            with m.Elif(waited == self._patience):
                m.d.sync += self.o_fault.kind.eq(Fault.WATCHDOG)
                m.d.sync += self.o_fault.where.eq(Mux(valid, held.move.where, self.stuck_where))
