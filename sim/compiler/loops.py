"""Sequences of beat addresses as the nested loops of READ and WRITE."""

from collections.abc import Sequence
from typing import Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sim.machine.commands import COUNT_MAX, DIMENSIONS

Loop: TypeAlias = tuple[int, int]
"""Count and stride in bytes."""

PLAIN: Final = (1, 0)


class Nest(NamedTuple):
    """Loops around an address, the innermost first. The innermost of a command has the stride of a beat."""

    start: int
    loops: tuple[Loop, ...]


def _merge(nests: Sequence[Nest]) -> list[Nest]:
    """Neighbours of equal loops at a constant distance become one nest with a loop more."""
    merged: list[Nest] = []
    at = 0
    while at < len(nests):
        start, loops = nests[at]
        end, stride = at + 1, 0
        if end < len(nests) and nests[end].loops == loops:
            stride = nests[end].start - start
            while end < len(nests) and nests[end].loops == loops and nests[end].start - nests[end - 1].start == stride:
                end += 1
        merged.append(Nest(start, (*loops, (end - at, stride)) if end - at > 1 else loops))
        at = end
    return merged


def _first_loops(addresses: NDArray[np.int64], stride: int | None) -> list[Nest]:
    """Runs of a constant distance, of `stride` alone where it is given."""
    steps = np.diff(addresses)
    if stride is not None:
        ends = np.append(np.flatnonzero(steps != stride), len(steps))
        starts = np.append(0, ends[:-1] + 1)
        return [
            Nest(start, ((count, stride),))
            for start, count in zip(addresses[starts].tolist(), (ends - starts + 1).tolist(), strict=True)
        ]
    nests: list[Nest] = []
    at = 0
    bounds = [*(np.flatnonzero(np.diff(steps)) + 1).tolist(), len(steps)] if len(steps) else []
    for end in bounds:  # elements up to `end` are one step apart
        if end > at:
            nests.append(Nest(int(addresses[at]), ((end - at + 1, int(steps[at])),)))
            at = end + 1
    if at < len(addresses):
        nests.append(Nest(int(addresses[at]), ()))
    return nests


def nest_beats(addresses: NDArray[np.int64], beat: int, levels: int = DIMENSIONS) -> list[Nest]:
    """Loops of up to `levels` that visit the addresses (n,) in their order."""
    nests = _first_loops(addresses, beat)
    for _ in range(levels - 1):
        if len(nests) == 1:
            break
        nests = _merge(nests)
    return nests


def nest_tokens(addresses: NDArray[np.int64], beat: int) -> list[tuple[Nest, int]]:
    """Loops that visit addresses (tokens, beats) row by row, and how many of the innermost make up a token.

    0 for a part of a token that a later nest ends.
    """
    inside = addresses - addresses[:, :1]
    changes = np.flatnonzero((inside[1:] != inside[:-1]).any(axis=1)) + 1
    result: list[tuple[Nest, int]] = []
    for start, stop in zip([0, *changes.tolist()], [*changes.tolist(), len(addresses)], strict=True):
        token = nest_beats(addresses[start], beat)
        if len(token) == 1 and len(token[0].loops) < DIMENSIONS:
            loops = token[0].loops
            outer = _first_loops(addresses[start:stop, 0], None)
            for _ in range(DIMENSIONS - len(loops) - 1):
                outer = _merge(outer)
            result += [(Nest(nest.start, (*loops, *nest.loops)), len(loops)) for nest in outer]
            continue
        for row in addresses[start:stop]:
            parts = nest_beats(row, beat)
            result += [(part, 0) for part in parts[:-1]] + [(parts[-1], DIMENSIONS)]
    return result


def _factors(count: int) -> tuple[int, int] | None:
    """Two factors that counts hold, the first as large as possible."""
    for outer in range(2, min(count, COUNT_MAX) + 1):
        if count % outer == 0 and count // outer <= COUNT_MAX:
            return count // outer, outer
    return None


def fit_counts(nest: Nest) -> list[Nest]:
    """The same beats in loops that a command can hold: counts of 16 bits."""
    for number, (count, stride) in enumerate(nest.loops):
        if count <= COUNT_MAX:
            continue
        factors = _factors(count) if len(nest.loops) < DIMENSIONS else None
        if factors is not None:
            inner, outer = factors
            split = ((inner, stride), (outer, inner * stride))
            return fit_counts(Nest(nest.start, (*nest.loops[:number], *split, *nest.loops[number + 1 :])))
        if number != len(nest.loops) - 1:
            raise ValueError(f"a loop of {count} inside others does not fit a command")
        rest = Nest(nest.start + COUNT_MAX * stride, (*nest.loops[:number], (count - COUNT_MAX, stride)))
        return [Nest(nest.start, (*nest.loops[:number], (COUNT_MAX, stride))), *fit_counts(rest)]
    return [nest]
