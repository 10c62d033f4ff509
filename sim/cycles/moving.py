"""What a READ moves, and what that takes of external and near memory."""

from dataclasses import dataclass

from sim.cycles.memory import MemoryRate


@dataclass(frozen=True)
class Moving:
    """Beats of a READ, and beats that it causes to be written, of external and near memory.

    apart: share of its beats that another port than that of external memory gives, `apart_rate` cycles each. one_line:
    they are asked for where those of external memory are, a request per cycle.
    """

    beats: int
    apart: float
    apart_rate: float
    writes: float
    near_writes: float
    one_line: bool = False

    @property
    def external(self) -> bool:
        """It uses the port to external memory."""
        return self.apart < 1 or self.writes > 0

    def of_port(self, beats: int) -> float:
        """Beats of external memory, of so many beats of the READ and all its writes."""
        return self.writes + beats * (1 - self.apart)

    def cycles(self, memory: MemoryRate, beats: int) -> float:
        """Of so many beats of the READ and all its writes; near memory takes a beat each way in a cycle."""
        rate = memory.mixed if self.writes and self.apart < 1 else memory.beat
        asked = self.of_port(beats) + (beats * self.apart if self.one_line else 0.0)
        return max(beats, beats * self.apart * self.apart_rate, self.near_writes, self.of_port(beats) * rate, asked)
