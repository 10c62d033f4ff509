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


def constants_within(commands: Iterable[Command], beat: int, room: int) -> tuple[Span, ...]:
    """Spans of constants that take no more than `room` bytes of near memory, those first that are read most often.

    What is read is wholly in a span or in none.
    """
    read: dict[Span, int] = {}
    for command in commands:
        for span in constants_read([command], beat):
            read[span] = read.get(span, 0) + command.beats
    spans: list[tuple[Span, int]] = []
    for (start, size), beats in sorted(read.items()):
        (first, length), before = spans[-1] if spans else ((start, 0), 0)
        if start < first + length:
            spans[-1] = (first, max(length, start + size - first)), before + beats
        else:
            spans.append(((start, size), beats))
    chosen: list[Span] = []
    for span, _ in sorted(spans, key=lambda one: one[1] / one[0][1], reverse=True):
        if aligned(span[1]) <= room:
            room -= aligned(span[1])
            chosen.append(span)
    return tuple(merged(chosen))
