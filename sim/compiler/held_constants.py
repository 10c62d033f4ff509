"""Which constants commands read, and their copies in near memory for as long as a step lasts."""

from collections.abc import Iterable, Sequence

from sim.compiler.builder import DATA, NEAR, Builder
from sim.compiler.memory import aligned
from sim.compiler.near_constants import merged
from sim.machine.commands import Command, Opcode

Span = tuple[int, int]
"""Address and bytes."""


def constants_read(commands: Iterable[Command], beat: int) -> list[Span]:
    """Spans of constants that READs take, without overlaps."""
    spans = set()
    for command in commands:
        if command.opcode == Opcode.READ and DATA <= command.address < NEAR // 2 and min(command.strides) >= 0:
            reach = zip(command.counts, (beat, *command.strides), strict=True)
            spans.add((command.address, sum((count - 1) * stride for count, stride in reach) + beat))
    return merged(spans)


def copies_bytes(spans: Iterable[Span]) -> int:
    """Bytes of near memory that copies take."""
    return sum(aligned(size) for _, size in spans)


def hold_constants(builder: Builder, spans: Sequence[Span]) -> None:
    """Copy constants to near memory; READs of them go there from now on. Raises RoomError where they do not fit."""
    copies: dict[Span, int] = {}
    for start, size in spans:
        copies[start, size] = builder.near.take(size)
        builder.copy(start, copies[start, size], size)
    if copies:
        builder.wait()
    builder.near_constants.set(copies)


def release_constants(builder: Builder) -> None:
    """Give the copies back."""
    for address in builder.near_constants.copies:
        builder.near.free(address)
    builder.near_constants.set({})
