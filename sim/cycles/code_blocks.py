"""The buffer of streamed codes as a timeline: when each word of a block has been written."""

from bisect import bisect_left
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from sim.cycles import delays
from sim.machine.presets import MachinePreset

HALVES: Final = 2
ROUNDING: Final = 1e-6
"""Codes of a token are fractions of beats, and sums of fractions are not exact."""


@dataclass
class _Block:
    """Pieces in order: beats up to `stops` came from starts to ends, evenly."""

    stops: list[float] = field(default_factory=list)
    starts: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)

    def filled(self, beats: int) -> float | None:
        """When so many beats have come, or None if they have not."""
        piece = bisect_left(self.stops, beats - ROUNDING)
        if piece == len(self.stops):
            return None
        before = self.stops[piece - 1] if piece else 0.0
        share = (beats - before) / (self.stops[piece] - before)
        return self.starts[piece] + share * (self.ends[piece] - self.starts[piece])


class CodeBlockTimes:
    """Blocks in order; the array reads the oldest that it has not given back."""

    def __init__(self, preset: MachinePreset) -> None:
        self._word_beats = preset.rows // 2 / preset.beat_bytes
        self._blocks: deque[_Block] = deque()
        self._newest = _Block()
        self._begun = 0
        self._given_back: deque[float] = deque(maxlen=HALVES)
        self._gone = 0

    def free(self) -> float:
        """When the next block may begin: the one before the last has been given back."""
        if self._begun < HALVES:
            return 0.0
        # A program that runs has given back all but one by now; of those the last but what lies ahead counts.
        ahead = self._gone - (self._begun - HALVES + 1)
        kept = list(self._given_back)
        return kept[-1 - ahead] if 0 <= ahead < len(kept) else 0.0

    def begin(self) -> None:
        """A CODE_BLOCK is taken."""
        self._newest = _Block()
        self._blocks.append(self._newest)
        self._begun += 1

    def fill(self, beats: float, start: float, end: float) -> None:
        """Beats of the newest block come from start to end."""
        block = self._newest
        block.stops.append((block.stops[-1] if block.stops else 0.0) + beats)
        block.starts.append(start)
        block.ends.append(end)

    def word(self, number: int) -> float | None:
        """When a word of the oldest block can be streamed, or None while its codes have not come."""
        if not self._blocks:
            return None
        filled = self._blocks[0].filled(round((number + 1) * self._word_beats))
        return None if filled is None else filled + delays.CODES

    def give_back(self, at: float) -> None:
        """The oldest block has been read."""
        if self._blocks:
            self._blocks.popleft()
            self._gone += 1
            self._given_back.append(at)
