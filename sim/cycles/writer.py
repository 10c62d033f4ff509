"""WRITEs in the order of the program, and when WAIT sees the end of them."""

from collections import deque

from sim.cycles import delays
from sim.machine.ports import Port

ROUNDING = 1e-6
"""Results of a token are fractions of beats, and sums of fractions are not exact."""


class Writer:
    """A WRITE ends when its source has given as many beats; the next one begins then."""

    def __init__(self) -> None:
        self._open: deque[tuple[Port, float, bool]] = deque()
        self._given: dict[Port, float] = {}
        self._last: dict[Port, float] = {}
        self._end = 0.0

    def begin(self, port: Port, beats: int, at: float, *, near: bool = False) -> None:
        """A WRITE is taken at `at`; of near memory or external memory."""
        self._open.append((port, beats, near))
        self._end = max(self._end, at)
        self._finish()

    def near(self, port: Port) -> bool:
        """What a source gives next goes to near memory."""
        return next((near for source, _, near in self._open if source == port), False)

    def given(self, port: Port, beats: float, end: float) -> None:
        """A source has given `beats` by `end`."""
        self._given[port] = self._given.get(port, 0.0) + beats
        self._last[port] = end
        self._finish()

    def _finish(self) -> None:
        while self._open:
            port, beats, _ = self._open[0]
            if self._given.get(port, 0.0) < beats - ROUNDING:
                return
            self._given[port] -= beats
            self._open.popleft()
            self._end = max(self._end, self._last[port])

    def idle(self) -> float:
        """When every WRITE so far has ended."""
        return self._end + delays.WRITTEN
