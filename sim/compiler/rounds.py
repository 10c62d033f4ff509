"""Rolls up what repeats: the same commands at addresses that grow evenly become a body and its REPEAT.

Bodies are chosen by commands run per command stored, wherever they lie; what is left between them is searched again.
Bodies do not lie in each other, so a long one must not swallow many rounds of a short one: hence the choice.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from typing import Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sim.machine.commands import BASES, COMMAND_BYTES, COUNT_MAX, Command, Opcode

LENGTHS: Final = 200
"""Lengths of bodies that are tried: the most frequent distances between commands that differ in their address alone."""

LONGEST_BODY: Final = 1 << 13


class Body(NamedTuple):
    """`rounds` rounds of `length` commands from number `start` on."""

    start: int
    length: int
    rounds: int

    @property
    def stop(self) -> int:
        """Number of the command behind."""
        return self.start + self.length * self.rounds

    @property
    def worth(self) -> tuple[float, int]:
        """What to choose by: commands run per command stored; of equals the longer."""
        return self.length * self.rounds / (self.length + 1), self.length


def _kinds(commands: list[Command]) -> NDArray[np.int64]:
    """A number for everything of a command but its address, counted in the order in which they first come."""
    numbers: dict[tuple[object, ...], int] = {}
    # Most commands are given many times, the same object.
    seen: dict[int, int] = {}
    kinds = []
    for one in commands:
        kind = seen.get(id(one))
        if kind is None:
            what = one.opcode, one.port, one.counts, one.strides, one.token_dims, one.payloads, one.payload
            kind = seen[id(one)] = numbers.setdefault(what, len(numbers))
        kinds.append(kind)
    return np.array(kinds, np.int64)


def _lengths(kinds: NDArray[np.int64]) -> list[int]:
    """Distances from commands to the next of their kind, the most frequent ones."""
    order = np.argsort(kinds, kind="stable")
    same = kinds[order[1:]] == kinds[order[:-1]]
    distances, counts = np.unique((order[1:] - order[:-1])[same], return_counts=True)
    fitting = distances <= min(LONGEST_BODY, len(kinds) // 2)
    distances, counts = distances[fitting], counts[fitting]
    return [int(one) for one in distances[np.argsort(-counts, kind="stable")[:LENGTHS]]]


def _runs(true: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """(start, length) of the runs of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], true, [False]]).astype(np.int8)))
    return list(zip(edges[0::2].tolist(), (edges[1::2] - edges[0::2]).tolist(), strict=True))


def _bodies(kinds: NDArray[np.int64], addresses: NDArray[np.int64], length: int) -> list[Body]:
    """Bodies of one length that run twice or more, each as often as it can."""
    equal = kinds[:-length] == kinds[length:]
    growth = addresses[length:] - addresses[:-length]
    even = equal[:-length] & equal[length:] & (growth[:-length] == growth[length:])
    bodies = [Body(start, length, 2 + run // length) for start, run in _runs(even) if run >= length]
    bodies += [Body(start, length, 2) for start, run in _runs(equal) if run >= length]
    fitting = []
    for body in bodies:
        steps = growth[body.start : body.start + length]
        if np.unique(steps[steps != 0]).size <= BASES and body.worth[0] > 1:
            fitting.append(body._replace(rounds=min(body.rounds, COUNT_MAX)))
    return fitting


def _chosen(kinds: NDArray[np.int64], addresses: NDArray[np.int64], offset: int) -> list[Body]:
    """Bodies that do not overlap, in order; numbers of commands count from `offset`."""
    if len(kinds) < 2:
        return []
    found = [body for length in _lengths(kinds) for body in _bodies(kinds, addresses, length)]
    found.sort(key=lambda body: body.worth, reverse=True)
    taken = np.zeros(len(kinds), np.bool_)
    chosen = []
    for body in found:
        if not taken[body.start : body.stop].any():
            taken[body.start : body.stop] = True
            chosen.append(body)
    if not chosen:
        return []
    rest = [
        inner
        for start, run in _runs(~taken)
        for inner in _chosen(kinds[start : start + run], addresses[start : start + run], offset + start)
    ]
    return sorted([body._replace(start=body.start + offset) for body in chosen] + rest)


Known: TypeAlias = dict[bytes, list[Body]]
"""Bodies of sequences of commands that have been rolled up, by what the choice depends on."""


def _known(kinds: NDArray[np.int64], addresses: NDArray[np.int64], known: Known) -> list[Body]:
    """As `_chosen`. Addresses are only compared among commands of a kind: equal steps of a network are chosen once."""
    _, first = np.unique(kinds, return_index=True)
    relative = addresses - addresses[first][kinds]
    key = hashlib.sha256(np.stack((kinds, relative)).tobytes()).digest()
    if key not in known:
        known[key] = _chosen(kinds, addresses, 0)
    return known[key]


def roll(commands: list[Command], start: int, known: Known | None = None) -> list[Command]:
    """The same work in fewer commands, the first of which will be number `start` of the program.

    known: from call to call, so that what only lies elsewhere is not searched again.
    """
    if not commands:
        return []
    addresses = np.array([one.address for one in commands], np.int64)
    return repeated(commands, start, _known(_kinds(commands), addresses, {} if known is None else known))


def repeated(commands: list[Command], start: int, bodies: Iterable[Body]) -> list[Command]:
    """The same work, with these bodies as such. Their addresses grow evenly, by as many steps as there are bases."""
    addresses = np.array([one.address for one in commands], np.int64)
    result: list[Command] = []
    at = 0
    for body in bodies:
        result += commands[at : body.start]
        first = start + len(result)
        end = body.start + body.length
        growth = addresses[end : end + body.length] - addresses[body.start : end]
        steps = [int(step) for step in np.unique(growth[growth != 0])]
        for one, step in zip(commands[body.start : end], growth.tolist(), strict=True):
            result.append(replace(one, base=steps.index(step) + 1) if step else one)
        a, b, c, d, e = [*steps, *[0] * (BASES - len(steps))]
        result.append(Command(Opcode.REPEAT, address=first * COMMAND_BYTES, rounds=body.rounds, steps=(a, b, c, d, e)))
        at = body.stop
    return result + commands[at:]
