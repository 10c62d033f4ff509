"""The one port to memory: who has used it when, and when command fetch finds it free."""

from collections import deque
from typing import Final

KEPT: Final = 64
"""Stretches of READs remembered: more than fetch can be behind."""

FREE_ENOUGH: Final = 0.02
"""Share of free cycles below which fetch gets nothing."""


class Port:
    """Stretches in which READs, and the writes that they cause, take a share of the port; fetch has what is left."""

    def __init__(self, beat: float) -> None:
        self._beat = beat
        self._stretches: deque[tuple[float, float, float]] = deque(maxlen=KEPT)

    def use(self, start: float, end: float, beats: float) -> None:
        """`beats` are moved in start..end; stretches follow one another."""
        if end > start:
            self._stretches.append((start, end, min(beats * self._beat / (end - start), 1.0)))

    def fetched(self, start: float, beats: int) -> float:
        """When `beats` of fetch that begin at `start` at the earliest have been asked for."""
        at, needed = start, beats * self._beat
        for begin, end, share in self._stretches:
            if end <= at:
                continue
            if begin > at:
                if at + needed <= begin:
                    return at + needed
                needed -= begin - at
                at = begin
            free = 1.0 - share
            if free < FREE_ENOUGH:
                at = end
                continue
            if needed / free <= end - at:
                return at + needed / free
            needed -= (end - at) * free
            at = end
        return at + needed
