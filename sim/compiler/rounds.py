"""Rolls up what repeats: the same commands at addresses that grow evenly become a body and its REPEAT."""

from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.machine.commands import BASES, COMMAND_BYTES, COUNT_MAX, Command, Opcode

LONGEST_BODY: Final = 1 << 13
"""Commands of a body, at most: bounds the search."""

CANDIDATES: Final = 256
"""Bodies that are tried at a command, the shortest first."""

PROBE: Final = 8
"""Commands that must agree before a body is looked at closely."""


class Body(NamedTuple):
    """So many commands, run so many times; increments int64 (length,) of their addresses."""

    length: int
    rounds: int
    increments: NDArray[np.int64]

    @property
    def saved(self) -> int:
        """Commands that need not be stored."""
        return (self.rounds - 1) * self.length - 1


def _kinds(commands: list[Command]) -> NDArray[np.int64]:
    """A number for everything of a command but its address."""
    numbers: dict[tuple[object, ...], int] = {}
    return np.array(
        [
            numbers.setdefault(
                (one.opcode, one.port, one.counts, one.strides, one.token_dims, one.payloads, one.payload), len(numbers)
            )
            for one in commands
        ]
    )


def _agreeing(equal: NDArray[np.bool_]) -> int:
    """How many are true before the first that is not."""
    return int(equal.argmin()) if not equal.all() else equal.size


def _body(kinds: NDArray[np.int64], addresses: NDArray[np.int64], start: int, length: int) -> Body | None:
    """The body of this length at this command, if it runs twice or more."""
    agreeing = _agreeing(kinds[start:-length] == kinds[start + length :])
    if agreeing < length:
        return None
    growth = addresses[start + length : start + length + agreeing] - addresses[start : start + agreeing]
    even = length + _agreeing(growth[length:] == growth[:-length]) if agreeing > length else agreeing
    increments = growth[:length]
    if np.unique(increments[increments != 0]).size > BASES:
        return None
    return Body(length, min(1 + even // length, COUNT_MAX), increments)


def _best(kinds: NDArray[np.int64], addresses: NDArray[np.int64], start: int) -> Body | None:
    window = kinds[start + 1 : start + 1 + LONGEST_BODY]
    lengths = np.flatnonzero(window == kinds[start]) + 1
    best: Body | None = None
    tried = 0
    for length in lengths.tolist():
        probe = min(PROBE, len(kinds) - start - length)
        if not np.array_equal(kinds[start : start + probe], kinds[start + length : start + length + probe]):
            continue
        body = _body(kinds, addresses, start, length)
        if body is not None and (best is None or body.saved > best.saved):
            best = body
        tried += 1
        if tried == CANDIDATES:
            break
    return best if best is not None and best.saved > 0 else None


def roll(commands: list[Command], start: int) -> list[Command]:
    """The same work in fewer commands, the first of which will be number `start` of the program."""
    if not commands:
        return []
    kinds = _kinds(commands)
    addresses = np.array([one.address for one in commands])
    result: list[Command] = []
    at = 0
    while at < len(commands):
        body = _best(kinds, addresses, at)
        if body is None:
            result.append(commands[at])
            at += 1
            continue
        steps = [int(step) for step in np.unique(body.increments[body.increments != 0])]
        first = start + len(result)
        for one, increment in zip(commands[at : at + body.length], body.increments.tolist(), strict=True):
            result.append(replace(one, base=steps.index(increment) + 1) if increment else one)
        steps += [0] * (BASES - len(steps))
        result.append(
            Command(Opcode.REPEAT, address=first * COMMAND_BYTES, rounds=body.rounds, steps=tuple(steps))
        )
        at += body.length * body.rounds
    return result
