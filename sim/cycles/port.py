"""The one port to external memory: who has used it when, and when others find it free."""

from collections import deque
from collections.abc import Iterable
from typing import Final

KEPT: Final = 64
"""Stretches remembered: more than fetch can be behind."""

FREE_ENOUGH: Final = 0.02
"""Share of free cycles below which nobody gets anything."""

_Stretch = tuple[float, float, float]
"""Begin, end, share of the port."""


class Port:
    """Stretches in which results, READs and the writes that they cause take a share of the port.

    Results of the array go first, READs have what these leave, and fetch has what is left of both.
    """

    def __init__(self, beat: float) -> None:
        self._beat = beat
        self._reads: deque[_Stretch] = deque(maxlen=KEPT)
        self._results: deque[_Stretch] = deque(maxlen=KEPT)

    def use(self, start: float, end: float, beats: float) -> None:
        """`beats` of a READ and its writes are moved in start..end; such stretches follow one another."""
        self._add(self._reads, start, end, beats)

    def results(self, start: float, end: float, beats: float) -> None:
        """The same of what the array gives."""
        self._add(self._results, start, end, beats)

    def _add(self, stretches: deque[_Stretch], start: float, end: float, beats: float) -> None:
        if beats and end > start:
            stretches.append((start, end, min(beats * self._beat / (end - start), 1.0)))

    def fetched(self, start: float, beats: int) -> float:
        """When `beats` of fetch that begin at `start` at the earliest have been asked for."""
        while self._reads and self._reads[0][1] <= start:
            self._reads.popleft()
        return _through(start, beats * self._beat, (*self._reads, *self._results))

    def read(self, start: float, cycles: float) -> float:
        """When READs that begin at `start` have had so many cycles of the port."""
        return _through(start, cycles, self._results)


def _through(start: float, needed: float, stretches: Iterable[_Stretch]) -> float:
    """When `needed` cycles beside all stretches are over."""
    ahead = [stretch for stretch in stretches if stretch[1] > start]
    at = start
    while ahead:
        free = 1.0 - sum(share for begin, end, share in ahead if begin <= at < end)
        turn = min((edge for begin, end, _ in ahead for edge in (begin, end) if edge > at), default=at)
        if turn <= at:
            break
        if free >= FREE_ENOUGH:
            if needed / free <= turn - at:
                return at + needed / free
            needed -= (turn - at) * free
        at = turn
        ahead = [stretch for stretch in ahead if stretch[1] > at]
    return at + needed
