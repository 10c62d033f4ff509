"""A program while it is written: commands, the constants they read, and the memory they work in.

Addresses are relative until the program is complete: those of constants count from DATA on, those of near memory from
NEAR on, those of working memory from 0 on, and distances between them carry DATA and NEAR along, so that placing all
afterwards is one addition.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sim.compiler.image import DATA, NEAR, placed_image
from sim.compiler.loops import PLAIN, Nest, fit_counts, nest_beats, nest_tokens
from sim.compiler.memory import ALIGNMENT, Allocator, RoomError
from sim.compiler.near_constants import NearConstants
from sim.compiler.rounds import Known, roll
from sim.contract.errors import UserError
from sim.machine.commands import DIMENSIONS, Command, Opcode
from sim.machine.ports import Port, payload_bytes, record_bytes
from sim.machine.presets import MachinePreset
from sim.machine.records import pack_records
from sim.machine.sweep import STEPS_PER_CODEBOOK, sweep_program

LONG_PART: Final = 1 << 17
"""Commands of a part of a step that is rolled up before the rest is made: a step of millions is never there whole."""

Levels = tuple[int, ...]

Tables: TypeAlias = tuple[tuple[tuple[Port, bytes], ...], tuple[bytes | None, ...], tuple[Levels | None, ...]]
"""What the units hold: the latest table of each port, level sets of the encoder, codebooks of the array."""


def pack_nibbles(values: NDArray[np.integer]) -> bytes:
    """Integers, any shape, as nibbles, last axis fastest, the first in the low half of a byte."""
    nibbles = values.reshape(-1).astype(np.uint8) & 15
    return (nibbles[0::2] | nibbles[1::2] << 4).tobytes()


class Builder:
    """Commands in order, for a machine of `preset`."""

    def __init__(self, preset: MachinePreset) -> None:
        self.preset = preset
        self.beat = preset.beat_bytes
        self.commands: list[Command] = []
        self.memory = Allocator(turned=True)
        self.near = Allocator(NEAR, preset.near_bytes)
        self.near_constants = NearConstants()
        self._rolled = 0
        self._on_trial = False
        self._known: Known = {}
        self._sent: dict[tuple[Port, tuple[tuple[str, int], ...]], Command] = {}
        self._data = bytearray()
        self._constants: dict[bytes, int] = {}
        self.begin_layer()
        self.zeros = self.constant(bytes(self.beat))

    # Constants

    def constant(self, content: bytes) -> int:
        """Address of these bytes; the same bytes are kept once."""
        if content not in self._constants:
            self._data.extend(bytes(-len(self._data) % ALIGNMENT))
            self._constants[content] = DATA + len(self._data)
            self._data.extend(content)
        return self._constants[content]

    def records(self, port: Port, fields: dict[str, Any]) -> bytes:
        """Payloads of a port that takes records."""
        return pack_records(port, self.preset, fields)

    # Commands

    def nests(self, opcode: Opcode, port: Port, nests: Iterable[tuple[Nest, int]], payloads: int = 0) -> None:
        """READs or WRITEs of loops, with the number of the innermost that make up a token."""
        for whole, token_dims in nests:
            for nest in fit_counts(whole._replace(start=self.near_constants.place(whole.start))):
                loops = nest.loops if nest.loops and nest.loops[0][1] == self.beat else (PLAIN, *nest.loops)
                loops += (PLAIN,) * (DIMENSIONS - len(loops))
                counts, strides = zip(*loops, strict=True)
                command = Command(opcode, port, nest.start, counts, strides[1:], token_dims, payloads)
                self.commands.append(command)

    def read(self, port: Port, addresses: NDArray[np.int64]) -> None:
        """READ beats at these addresses (n,) in this order."""
        self.nests(Opcode.READ, port, [(nest, 0) for nest in nest_beats(addresses.reshape(-1), self.beat)])

    def write(self, port: Port, addresses: NDArray[np.int64]) -> None:
        """WRITE beats to these addresses, any shape, in this order."""
        self.nests(Opcode.WRITE, port, [(nest, 0) for nest in nest_beats(addresses.reshape(-1), self.beat)])

    def read_tokens(self, port: Port, addresses: NDArray[np.int64]) -> None:
        """READ beats at addresses (tokens, beats), `last` with the last of a token."""
        self.nests(Opcode.READ, port, nest_tokens(addresses, self.beat))

    def read_block(self, port: Port, address: int, payloads: int) -> None:
        """READ payloads that lie side by side."""
        size = payloads * payload_bytes(port, self.preset)
        beats = -(-size // self.beat)
        # A count is needed only where the last beat holds more than is wanted.
        self.nests(Opcode.READ, port, [(Nest(address, ((beats, self.beat),)), 0)], payloads if size % self.beat else 0)

    def read_loops(self, port: Port, address: int, *loops: tuple[int, int]) -> None:
        """READ beats in these loops (count, stride in bytes), the innermost first, where strides differ from none."""
        self.nests(Opcode.READ, port, [(Nest(address, self._loops(loops)), 0)])

    def write_loops(self, port: Port, address: int, *loops: tuple[int, int]) -> None:
        """WRITE beats, as `read_loops`."""
        self.nests(Opcode.WRITE, port, [(Nest(address, self._loops(loops)), 0)])

    def _loops(self, loops: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
        return ((loops[0][0], self.beat), *(loop for loop in loops[1:] if loop[0] != 1))

    def write_block(self, port: Port, address: int, size: int) -> None:
        """WRITE `size` bytes side by side."""
        self.write_loops(port, address, (size // self.beat, self.beat))

    def copy(self, source: int, target: int, size: int) -> None:
        """`size` bytes side by side from one place to another."""
        self.write_block(Port.COPIED, target, size)
        self.nests(Opcode.READ, Port.COPY, [(Nest(source, ((size // self.beat, self.beat),)), 0)])

    def bring(self, addresses: NDArray[np.int64]) -> int:
        """Beats at these addresses, any shape, to near memory, side by side in this order: where they are, once a WAIT
        is over that comes with it. Raises RoomError where there is no room."""
        size = addresses.size * self.beat
        place = self.near.take(size)
        self.write_block(Port.COPIED, place, size)
        self.read(Port.COPY, addresses)
        self.wait()
        return place

    def send(self, port: Port, **fields: int) -> None:
        """SEND one record."""
        # Packing takes far longer than looking up, and most records are sent over and over.
        record = port, tuple(fields.items())
        if record not in self._sent:
            payload = pack_records(port, self.preset, fields)[: record_bytes(port)]
            self._sent[record] = Command(Opcode.SEND, port, payload=payload)
        self.commands.append(self._sent[record])

    def wait(self) -> None:
        """WAIT, unless nothing has been written since the last."""
        if self.commands and self.commands[-1].opcode != Opcode.WAIT:
            self.commands.append(Command(Opcode.WAIT))

    def route(self, source: Port, beats: int = 0) -> None:
        """An output goes to its input on the chip from here on; nothing of either is on its way."""
        self.send(Port.ROUTE, source=source, on=1, beats=beats)

    def unroute(self, source: Port) -> None:
        """It goes to memory again; all that passed the route has been waited for."""
        self.send(Port.ROUTE, source=source, on=0, beats=0)

    def recorded(self, emit: Callable[[], None]) -> list[Command]:
        """The commands that `emit` gives, taken off again, for a program to give them many times."""
        begin = len(self.commands)
        emit()
        commands = self.commands[begin:]
        del self.commands[begin:]
        return commands

    # Rounds

    def roll(self) -> None:
        """Roll up what repeats of the commands since the last time."""
        self.commands[self._rolled :] = roll(self.commands[self._rolled :], self._rolled, self._known)
        self._rolled = len(self.commands)

    def rolled(self, commands: list[Command]) -> list[Command]:
        """These commands, to be given next, with what repeats rolled up."""
        return roll(commands, len(self.commands), self._known)

    @contextmanager
    def trial(self) -> Iterator[None]:
        """What is lowered inside leaves nothing but constants, which are kept once anyway, and is not rolled up."""
        near, memory, begin = deepcopy(self.near), deepcopy(self.memory), len(self.commands)
        self._on_trial = True
        try:
            yield
        finally:
            self._on_trial = False
            del self.commands[begin:]
            self.near, self.memory = near, memory
            self.near_constants.set({})
            self.begin_layer()

    @contextmanager
    def forgetting(self) -> Iterator[None]:
        """Constants that are stored inside are not kept: no command that reads them may be."""
        size = len(self._data)
        try:
            yield
        finally:
            while self._constants and next(reversed(self._constants.values())) >= DATA + size:
                self._constants.popitem()
            del self._data[size:]

    def leave(self) -> None:
        """What stands is rolled up already."""
        self._rolled = len(self.commands)

    def roll_long(self) -> None:
        """The same at the end of a part of a step, where the part is long."""
        if not self._on_trial and len(self.commands) - self._rolled > LONG_PART:
            self.roll()

    # Memory of what is small and does not outlive a step

    def take_near_first(self, size: int) -> int:
        """Room in near memory, or in external memory where there is none."""
        try:
            return self.near.take(size)
        except RoomError:
            return self.memory.take(size)

    def give_back(self, address: int) -> None:
        """Give back room in either memory."""
        (self.near if address in self.near else self.memory).free(address)

    # Tables

    def begin_layer(self) -> None:
        """Forget which tables the machine holds: a layer brings its own, and runs from any state of the units."""
        self._resident: dict[Port, bytes] = {}
        self._encoder_tables: list[bytes | None] = [None] * self.preset.tables
        self._codebooks: list[Levels | None] = [None] * self.preset.codebooks

    @property
    def tables(self) -> Tables:
        """What the units hold at this place of the program."""
        return tuple(sorted(self._resident.items())), tuple(self._encoder_tables), tuple(self._codebooks)

    @tables.setter
    def tables(self, held: Tables) -> None:
        resident, encoder, books = held
        self._resident, self._encoder_tables, self._codebooks = dict(resident), list(encoder), list(books)

    def table(self, port: Port, fields: dict[str, Any]) -> None:
        """READ records that a unit keeps, unless they are the latest that it was given."""
        content = pack_records(port, self.preset, fields)
        if self._resident.get(port) != content:
            self._resident[port] = content
            self.read_block(port, self.constant(content), len(content) // payload_bytes(port, self.preset))

    def encoder_tables(self, tables: Sequence[bytes], where: str) -> list[int]:
        """Place in the encoder of each table of 512 codes, READ where it is missing.

        Raises UserError when an operation needs more than there is room for.
        """
        wanted = list(dict.fromkeys(tables))
        if len(wanted) > self.preset.tables:
            raise UserError(
                f"{where} has {len(wanted)} level sets, the encoder of preset {self.preset.name} holds "
                f"{self.preset.tables}; export with fewer groups"
            )
        held = self._encoder_tables
        places = {table: held.index(table) for table in wanted if table in held}
        # Empty places first, so that common tables stay.
        free = sorted(set(range(len(held))) - set(places.values()), key=lambda slot: (held[slot] is not None, slot))
        for table, slot in zip([table for table in wanted if table not in places], free, strict=False):
            places[table], held[slot] = slot, table
            codes = np.frombuffer(table, np.uint8)
            fields = {"address": slot * codes.size + np.arange(codes.size), "code": codes}
            content = pack_records(Port.ENCODER_TABLE, self.preset, fields)
            self.read_block(Port.ENCODER_TABLE, self.constant(content), codes.size)
        return [places[table] for table in tables]

    def codebooks(self, wanted: Sequence[Levels], where: str) -> int:
        """Place of the first of these codebooks, which lie in a row in the array, READ where they are missing.

        What was used before may be overwritten: a program asks between a WAIT and the first command of the array.
        """
        count, room = len(wanted), len(self._codebooks)
        if count > room:
            raise UserError(
                f"{where} needs {count} codebooks, the array of preset {self.preset.name} holds {room}; "
                "export with fewer groups"
            )
        held = self._codebooks

        def cost(place: int) -> tuple[bool, int]:
            """Codebooks to READ there come first: none, then those that overwrite none."""
            missing = sum(held[place + number] != levels for number, levels in enumerate(wanted))
            return missing > 0 and any(book is not None for book in held[place : place + count]), missing

        place = min(range(room - count + 1), key=cost)
        for number, levels in enumerate(wanted):
            if held[place + number] != levels:
                held[place + number] = levels
                steps = np.array(sweep_program(levels))
                address = (place + number) * STEPS_PER_CODEBOOK + np.arange(steps.size)
                content = pack_records(Port.CODEBOOK, self.preset, {"address": address, "step": steps})
                self.read_block(Port.CODEBOOK, self.constant(content), steps.size)
        return place

    # The whole

    def image(self) -> tuple[bytes, list[Command], int]:
        """As `sim.compiler.image.placed_image`, of what has been given so far."""
        return placed_image(self.commands, self._data, self.memory.peak, self.preset)
