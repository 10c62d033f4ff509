"""Parts of a step that differ in their place alone are lowered once: the others have the same commands at other
addresses."""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, pairwise
from typing import Generic, Protocol, TypeAlias, TypeVar

from sim.compiler.builder import Builder, Tables
from sim.compiler.rounds import Body, repeated
from sim.machine.commands import Command, Opcode

Shift: TypeAlias = tuple[int, int, int]
"""First address of a tensor, the first behind it, and what to add to addresses of it."""

Part = TypeVar("Part")
Part_contra = TypeVar("Part_contra", contravariant=True)


def even(distances: Sequence[Hashable]) -> int:
    """How many of things with these distances from one to the next are one distance apart, counted from the first."""
    return 1 + next((number for number, one in enumerate(distances) if one != distances[0]), len(distances))


class Parts(Protocol[Part_contra]):
    """How to lower any part of a step."""

    def shape(self, part: Part_contra) -> Hashable:
        """Equal for parts whose commands differ in addresses of tensors alone, where the units hold the same tables."""

    def lower(self, part: Part_contra) -> None:
        """Its commands."""

    def shifts(self, there: Part_contra, here: Part_contra) -> list[Shift]:
        """From the addresses of a part to those of another of the same shape. Tensors do not overlap."""


@dataclass(frozen=True)
class _Made(Generic[Part]):
    """A part, its commands, and what the units hold behind it."""

    part: Part
    commands: list[Command]
    tables: Tables


@dataclass
class SameParts(Generic[Part]):
    """Lowers all parts of a step."""

    builder: Builder
    parts: Parts[Part]
    _made: dict[Hashable, _Made[Part]] = field(default_factory=dict)

    def lower(self, parts: Iterable[Part]) -> None:
        """All parts. What repeats is rolled up already: nested rounds are impossible, so parts in a row become rounds
        where that takes fewer commands than rounds within each of them."""
        made = [(part, *self._commands(part)) for part in parts]
        for _, alike in groupby(made, key=lambda one: one[1]):
            self._lower_alike([(part, commands) for part, _, commands in alike])

    def _lower_alike(self, made: Sequence[tuple[Part, list[Command]]]) -> None:
        distances = [
            tuple(shift for _, _, shift in self.parts.shifts(there, here)) for (there, _), (here, _) in pairwise(made)
        ]
        at = 0
        while at < len(made):
            # A READ of two memories of which one stays is another command for every part.
            alike = at + 1 < len(made) and _strides(made[at][1]) == _strides(made[at + 1][1])
            stop = at + (even(distances[at:]) if alike else 1)
            self._rolled([one for _, commands in made[at:stop] for one in commands], stop - at)
            at = stop

    def _rolled(self, commands: list[Command], rounds: int) -> None:
        builder = self.builder
        start, length = len(builder.commands), len(commands) // rounds
        within = builder.rolled(commands)
        if rounds > 1 and length + 1 < len(within):
            within = repeated(commands, start, [Body(0, length, rounds)])
        builder.commands += within

    def _commands(self, part: Part) -> tuple[Hashable, list[Command]]:
        """Of one part, and what they are the same for. What the units hold is part of that: a table is read where it is
        missing."""
        builder = self.builder
        key = self.parts.shape(part), builder.tables
        if key in self._made:
            made = self._made[key]
            builder.tables = made.tables
            return key, self._moved(made.commands, self.parts.shifts(made.part, part))
        begin = len(builder.commands)
        self.parts.lower(part)
        commands = builder.commands[begin:]
        del builder.commands[begin:]
        self._made[key] = _Made(part, commands, builder.tables)
        return key, commands

    @staticmethod
    def _moved(commands: list[Command], shifts: list[Shift]) -> list[Command]:
        def shift_at(address: int) -> int:
            return next((shift for first, stop, shift in shifts if first <= address < stop), 0)

        def moved(command: Command) -> Command:
            if command.opcode not in (Opcode.READ, Opcode.WRITE):
                return command
            shift = shift_at(command.address)
            # A loop of two rounds may lead from one operand to the other, which moves by a distance of its own.
            a, b, c = (
                stride + shift_at(command.address + stride) - shift if count == 2 else stride
                for count, stride in zip(command.counts[1:], command.strides, strict=True)
            )
            return replace(command, address=command.address + shift, strides=(a, b, c))

        return [moved(command) for command in commands]


def _strides(commands: Sequence[Command]) -> list[tuple[int, ...]]:
    return [command.strides for command in commands]
