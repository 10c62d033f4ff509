"""Programs by hand: operands get their places behind the program, commands are collected, the executor runs them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.contract.encoder import Encoder, half_step_table
from sim.executor import Executor
from sim.machine.banks import banks_of
from sim.machine.commands import COMMAND_BYTES, Command, Opcode
from sim.machine.ports import RECORDS, Port, record_bytes
from sim.machine.presets import PRESETS, MachinePreset
from sim.machine.records import pack_records
from sim.machine.settings import Phase
from sim.machine.sweep import STEPS_PER_CODEBOOK, sweep_program

PROGRAM_BYTES = 1 << 16


class Assembler:
    """preset: of the machine. memory: PROGRAM_BYTES for the program, operands behind them."""

    def __init__(self, preset: MachinePreset = PRESETS["tiny"]) -> None:
        self.preset = preset
        self.beat = preset.beat_bytes
        self.memory = np.zeros(preset.memory_bytes, np.uint8)
        self.commands: list[Command] = []
        self._next = PROGRAM_BYTES

    def room(self, size: int) -> int:
        """Address of so many bytes, rounded up to beats."""
        address = self._next
        self._next += -(-size // self.beat) * self.beat
        return address

    def put(self, data: NDArray[Any]) -> int:
        """Address of the bytes of an array."""
        raw = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
        address = self.room(raw.size)
        self.memory[address : address + raw.size] = raw
        return address

    def get(self, address: int, shape: tuple[int, ...], dtype: str = "<i2") -> NDArray[Any]:
        """An array of memory."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return self.memory[address : address + size].view(dtype).reshape(shape)

    def move_in(self, port: Port, address: int, **fields: Any) -> None:
        """A READ in any loops."""
        self.commands.append(Command(Opcode.READ, port, address, **fields))

    def move_out(self, port: Port, address: int, **fields: Any) -> None:
        """A WRITE in any loops."""
        self.commands.append(Command(Opcode.WRITE, port, address, **fields))

    def move(self, opcode: Opcode, port: Port, address: int, beats: int, **fields: Any) -> None:
        """A READ or WRITE of beats that lie behind each other, in one or two loops."""
        if "counts" not in fields:
            inner = next(n for n in range(min(beats, 65535), 0, -1) if beats % n == 0)
            fields |= {"counts": (inner, beats // inner, 1, 1), "strides": (inner * self.beat, 0, 0)}
        self.commands.append(Command(opcode, port, address, **fields))

    def read(self, port: Port, data: NDArray[Any], **fields: Any) -> None:
        """A READ of an array that is put into memory for it."""
        raw = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
        self.move(Opcode.READ, port, self.put(raw), -(-raw.size // self.beat), **fields)

    def records(self, port: Port, rows: Sequence[tuple[int, ...]]) -> None:
        """A READ of records."""
        fields = zip((field.name for field in RECORDS[port]), np.array(rows, object).T, strict=True)
        data = pack_records(port, self.preset, dict(fields))
        self.read(port, np.frombuffer(data, np.uint8), payloads=len(rows))

    def send(self, port: Port, *row: int) -> None:
        """A SEND of one record."""
        fields = dict(zip((field.name for field in RECORDS[port]), row, strict=True))
        payload = pack_records(port, self.preset, fields)[: record_bytes(port)]
        self.commands.append(Command(Opcode.SEND, port, payload=payload))

    def array(self, phase: Phase, **fields: int) -> None:
        """A command of the array; fields that are not given are 1, and those of codebooks and blocks 0."""
        row = dict.fromkeys((field.name for field in RECORDS[Port.ARRAY_COMMAND]), 1)
        row |= dict.fromkeys(("codebook", "split", "release", "word", "pitch"), 0)
        self.send(Port.ARRAY_COMMAND, *(row | {"phase": phase} | fields).values())

    def route(self, source: Port, *, on: bool = True, beats: int = 0) -> None:
        """A SEND that turns a route on or off."""
        self.send(Port.ROUTE, source, on, beats)

    def write(self, port: Port, size: int, **fields: Any) -> int:
        """A WRITE of so many bytes to a place of its own, whose address is returned."""
        address = self.room(size)
        self.move(Opcode.WRITE, port, address, size // self.beat, **fields)
        return address

    def wait(self) -> None:
        """A WAIT."""
        self.commands.append(Command(Opcode.WAIT))

    def codebooks(self, *levels: NDArray[np.int8]) -> None:
        """READs of sweep programs, the codebook number n at place n."""
        rows = [
            (number * STEPS_PER_CODEBOOK + place, step)
            for number, row in enumerate(levels)
            for place, step in enumerate(sweep_program(row))
        ]
        self.records(Port.CODEBOOK, rows)

    def encoder(self, encoder: Encoder) -> None:
        """Tables of an encoder."""
        channels = list(zip(encoder.multiplier.tolist(), encoder.addend.tolist(), strict=True))
        padded = -len(channels) % self.preset.lanes
        order = encoder.permutation.tolist() + list(range(len(channels), len(channels) + padded))
        tiles = range(encoder.tiles)
        tables = [half_step_table(row).tolist() for row in encoder.levels]
        banks = banks_of(np.array(order), self.preset.lanes).tolist()
        self.records(Port.ENCODER_ORDER, list(zip(range(len(order)), order, banks, strict=True)))
        self.records(Port.ENCODER_CHANNEL, [(p, *row) for p, row in enumerate(channels)])
        self.records(Port.ENCODER_TILE, [(t, int(encoder.shift[t]), min(t, len(tables) - 1)) for t in tiles])
        entries = [(512 * n + index, code) for n, table in enumerate(tables) for index, code in enumerate(table)]
        self.records(Port.ENCODER_TABLE, entries)
        self.send(Port.ENCODER_PLANES, encoder.code_planes)

    def executor(self) -> Executor:
        """An executor of the commands and a STOP."""
        words = b"".join(command.encode() for command in [*self.commands, Command(Opcode.STOP)])
        self.memory[: len(words)] = np.frombuffer(words, np.uint8)
        return Executor(self.preset, self.memory, PROGRAM_BYTES)

    def run(self) -> None:
        """Runs the program to its end."""
        end = self.executor().run()
        assert end == COMMAND_BYTES * len(self.commands)
