"""Runs a program of the machine on an image of its memory."""

from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sim.contract.errors import UserError
from sim.executor.activation import ActivationUnit
from sim.executor.array import ArrayUnit
from sim.executor.copy import CopyUnit
from sim.executor.depthwise import DepthwiseUnit
from sim.executor.encoder import EncoderUnit
from sim.executor.memory_view import MemoryView
from sim.executor.norm import NormUnit
from sim.executor.outputs import Outputs, Write
from sim.executor.position import PositionUnit
from sim.executor.residual import ResidualUnit
from sim.executor.routes import STARTS, Routes
from sim.executor.unit import Batch, MachineError, OperandError, StallError, Unit, check
from sim.machine.commands import BASES, COMMAND_BYTES, DIMENSIONS, SEND_BYTES_MAX, Command, Opcode, decode
from sim.machine.faults import Fault
from sim.machine.ports import ROUTES, Port, is_output, payload_bytes
from sim.machine.presets import MachinePreset
from sim.machine.records import unpack_records

ADDRESS_BITS: Final = 32

QUIET: Final = {
    Port.ENCODER_ORDER: Port.ENCODER_VALUES,
    Port.ENCODER_CHANNEL: Port.ENCODER_VALUES,
    Port.ENCODER_TILE: Port.ENCODER_VALUES,
    Port.ENCODER_TABLE: Port.ENCODER_VALUES,
    Port.ACTIVATION_TABLE: Port.ACTIVATION_VALUES,
    Port.THRESHOLD: Port.ARRAY_COMMAND,
    Port.SCORE_LEVEL: Port.ARRAY_COMMAND,
}
"""Tables that a unit reads while values are on their way through it, and the port that sets these going: between one
and the other there is a WAIT."""


class Executor:
    """A machine of a preset on a memory that it shares with the caller.

    memory: external memory, uint8 (preset.memory_bytes,); commands from wherever `run` starts. writable: first address
    that a WRITE may reach. near: near memory, uint8 (preset.near_bytes,), zero at first. Every port keeps to the order
    of the program; a program that the hardware would wait in for ever, or whose result would depend on its timing,
    raises MachineError, a UserError that names the command.
    """

    def __init__(self, preset: MachinePreset, memory: NDArray[np.uint8], writable: int) -> None:
        if memory.size != preset.memory_bytes:
            raise ValueError(f"memory of preset {preset.name} has {preset.memory_bytes} bytes, found {memory.size}")
        self.preset: Final = preset
        self._memory = MemoryView(memory, preset.near_bytes, preset.beat_bytes, writable)
        self.near: Final = self._memory.near
        self._routes = Routes(preset)
        self._array = array = ArrayUnit(preset)
        self._units: Final[list[Unit]] = [
            CopyUnit(),
            EncoderUnit(preset),
            array,
            PositionUnit(preset, array.rows),
            NormUnit(preset),
            ResidualUnit(preset),
            ActivationUnit(),
            DepthwiseUnit(preset),
        ]
        self._unit_of: Final = {port: unit for unit in self._units for port in unit.inputs}
        self._payload_bytes: Final = {port: payload_bytes(port, preset) for port in Port}
        self._outputs = Outputs(self._memory, preset.beat_bytes)
        self._decoded: Final[dict[bytes, Command]] = {}
        self._bases = [0] * (BASES + 1)
        self._rounds_done = 0
        self._body_end = 0
        self._given: set[Port] = set()

    def run(self, start: int = 0, stop: int | None = None) -> int:
        """Executes from command address `start` until STOP, or until it comes to command address `stop`.

        Returns the address of the command that is next, or of STOP. State of the units is kept between calls.
        """
        where = start
        while where != stop:
            command = self._fetch(where)
            if command.opcode == Opcode.STOP:
                self._finish(where)
                return where
            if command.opcode == Opcode.REPEAT:
                where = self._repeat(command, where)
                continue
            self._execute(command, where)
            where += COMMAND_BYTES
        return where

    def _repeat(self, command: Command, where: int) -> int:
        """Address of the command that is next: the first of the body, or the one behind the last round."""
        if command.rounds == 0 or not 0 <= command.address < where or command.address % COMMAND_BYTES:
            raise MachineError(Fault.FIELD, where, f"{command.rounds} rounds from {command.address:#x} on")
        if self._rounds_done and where != self._body_end:
            raise MachineError(Fault.FIELD, where, f"a REPEAT within the body of that at {self._body_end:#x}")
        self._body_end = where
        self._rounds_done += 1
        if self._rounds_done < command.rounds:
            self._bases[1:] = [base + step for base, step in zip(self._bases[1:], command.steps, strict=True)]
            return command.address
        self._rounds_done = 0
        self._bases[1:] = [0] * BASES
        return where + COMMAND_BYTES

    def _fetch(self, where: int) -> Command:
        if where % COMMAND_BYTES:
            raise MachineError(Fault.ALIGNMENT, where, f"commands are at multiples of {COMMAND_BYTES}")
        if not 0 <= where <= self._memory.bytes.size - COMMAND_BYTES:
            raise MachineError(Fault.RANGE, where, "the program runs out of memory without STOP")
        word = self._memory.bytes[where : where + COMMAND_BYTES].tobytes()
        command = self._decoded.get(word)
        if command is None:
            command = self._decoded[word] = self._checked(word, where)
        if command.base:
            address = (command.address + self._bases[command.base]) % (1 << ADDRESS_BITS)
            command = replace(command, address=address)
        return command

    def _checked(self, word: bytes, where: int) -> Command:
        try:
            command = decode(word)
        except UserError as error:
            fault = Fault.PORT if word[0] in list(Opcode) else Fault.OPCODE
            raise MachineError(fault, where, str(error)) from error
        if command.port is not None and is_output(command.port) != (command.opcode == Opcode.WRITE):
            raise MachineError(Fault.PORT, where, f"{command.opcode.name} cannot use port {command.port.name}")
        if command.base > BASES:
            raise MachineError(Fault.FIELD, where, f"there is no base register {command.base}")
        if 0 in command.counts or command.token_dims > DIMENSIONS:
            raise MachineError(Fault.FIELD, where, f"counts {command.counts}, token_dims {command.token_dims}")
        if command.opcode == Opcode.SEND:
            if not 1 <= word[2] <= SEND_BYTES_MAX:
                raise MachineError(Fault.FIELD, where, f"a SEND of {word[2]} bytes, 1..{SEND_BYTES_MAX} are possible")
            if command.port is not None and self._payload_bytes[command.port] > COMMAND_BYTES:
                raise MachineError(Fault.PORT, where, f"a payload of {command.port.name} does not fit a command")
        return command

    def _execute(self, command: Command, where: int) -> None:
        if command.opcode == Opcode.WAIT:
            self._wait(where)
        elif command.port is None:
            raise AssertionError(command)
        elif command.opcode == Opcode.WRITE:
            taker = self._routes.target(command.port)
            if taker is not None:
                text = f"a WRITE waits for {command.port.name}, all of which goes to {taker.name}"
                raise MachineError(Fault.WATCHDOG, where, text)
            self._outputs.expect(Write(command.port, self._memory.places(command, where), where))
        else:
            read = command.opcode == Opcode.READ
            self._give(self._batch(command, where) if read else self._sent(command), where)

    def _batch(self, command: Command, where: int) -> Batch:
        """Payloads of a READ."""
        assert command.port is not None
        size = self._payload_bytes[command.port]
        beat = self.preset.beat_bytes
        data = self._memory.read(command, where)
        held = data.size // size
        wanted = command.payloads or held
        if wanted > held or (not command.payloads and data.size % size):
            text = f"{len(data)} beats hold {data.size / size:g} payloads of {command.port.name}"
            raise MachineError(None, where, f"{text}, the READ is for {command.payloads or 'whole ones'}")
        token = int(np.prod(command.counts[: command.token_dims])) * beat // size if command.token_dims else 0
        return Batch(command.port, data.reshape(-1, size)[:wanted], token)

    def _sent(self, command: Command) -> Batch:
        """Payloads of a SEND, the last one with zeros behind the bytes that were sent."""
        assert command.port is not None
        size = self._payload_bytes[command.port]
        count = -(-len(command.payload) // size)
        data = np.zeros(count * size, np.uint8)
        data[: len(command.payload)] = np.frombuffer(command.payload, np.uint8)
        return Batch(command.port, data.reshape(count, size))

    def _give(self, batch: Batch, where: int) -> None:
        source = self._routes.source(batch.port)
        if source is not None:
            text = f"{batch.port.name} takes what {source.name} gives and waits with everything else"
            raise MachineError(Fault.WATCHDOG, where, text)
        if QUIET.get(batch.port) in self._given:
            text = f"{batch.port.name} changes a table that what {QUIET[batch.port].name} began may still read"
            raise MachineError(None, where, f"{text}; there is no WAIT between them that knows its end")
        try:
            if batch.port == Port.ROUTE:
                self._change_routes(batch)
            else:
                self._deliver(batch)
        except StallError as error:
            raise MachineError(Fault.WATCHDOG, where, str(error)) from error
        except (OperandError, UserError) as error:
            raise MachineError(None, where, str(error)) from error
        self._outputs.write()
        left = self._outputs.left(self.preset.beat_bytes)
        if left:
            raise MachineError(Fault.WATCHDOG, where, f"{left} leave that no WRITE before takes")

    def _change_routes(self, batch: Batch) -> None:
        fields = unpack_records(batch.port, batch.data)
        for number in range(len(batch.data)):
            record = {name: int(value[number]) for name, value in fields.items()}
            self._routes.change(**record)
            source = Port(record["source"])
            moving = self._given & {STARTS[source], ROUTES[source]}
            check(not moving, f"the route of {source.name} changes, but no WAIT knows the end of what it was given")
            check(self._outputs.waiting is None, f"the route of {source.name} changes while a WRITE lacks beats")

    def _deliver(self, batch: Batch) -> None:
        """To a unit, and what it gives along the routes."""
        self._given.add(batch.port)
        for port, data in self._unit_of[batch.port].take(batch):
            self._outputs.give(port, data)
            if self._routes.target(port) is not None:
                for routed in self._routes.batches(port, self._outputs.whole_beats(port)):
                    self._deliver(routed)

    def _wait(self, where: int) -> None:
        write = self._outputs.waiting
        if write is not None:
            raise MachineError(
                Fault.WATCHDOG,
                where,
                f"the WRITE of {write.port.name} at {write.where:#x} has {write.done} of {write.places.size} beats",
            )
        self._memory.settle()
        # WRITEs say nothing about codes that go to the array and have not come out of it as results.
        behind = {Port.ENCODED} if self._routes.target(Port.ENCODED) and not self._array.settled else set()
        if behind and self._routes.target(Port.NORMED):
            behind.add(Port.NORMED)
        self._given &= {port for output in behind for port in (STARTS[output], ROUTES[output])}

    def _finish(self, where: int) -> None:
        self._wait(where)
        left = next((text for unit in self._units if (text := unit.left())), self._outputs.left())
        if left:
            raise MachineError(None, where, f"STOP comes too early: {left}")
