"""What output ports have given, and the WRITEs that take it."""

from collections import deque
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sim.executor.memory_view import MemoryView
from sim.machine.ports import Port, is_output


@dataclass
class Write:
    """A WRITE under way: its beats, how many have come, and the address of the command."""

    port: Port
    places: NDArray[np.int64]
    where: int
    done: int = 0


@dataclass
class _Given:
    """What a port has given and nobody has taken yet."""

    parts: list[NDArray[np.uint8]] = field(default_factory=list)
    bytes: int = 0

    def take(self, count: int) -> NDArray[np.uint8]:
        """The first `count` bytes."""
        whole = self.parts[0] if len(self.parts) == 1 else np.concatenate(self.parts)
        self.parts = [whole[count:]] if whole.size > count else []
        self.bytes -= count
        return whole[:count]


class Outputs:
    """WRITEs in the order of the program: the first takes what its port has given, then the next one."""

    def __init__(self, memory: MemoryView, beat_bytes: int) -> None:
        self._memory, self._beat = memory, beat_bytes
        self._writes: deque[Write] = deque()
        self._given: Final[dict[Port, _Given]] = {port: _Given() for port in Port if is_output(port)}

    @property
    def waiting(self) -> Write | None:
        """The WRITE that lacks beats, if there is one."""
        return self._writes[0] if self._writes else None

    def expect(self, write: Write) -> None:
        """A WRITE of the program."""
        self._writes.append(write)

    def give(self, port: Port, data: NDArray[np.uint8]) -> None:
        """Bytes, uint8 (bytes,), leave a port."""
        self._given[port].parts.append(data)
        self._given[port].bytes += data.size

    def whole_beats(self, port: Port) -> NDArray[np.uint8]:
        """Bytes, uint8 (bytes,), of all whole beats that a port has given; they are taken."""
        given = self._given[port]
        whole = given.bytes - given.bytes % self._beat
        return given.take(whole) if whole else np.zeros(0, np.uint8)

    def write(self) -> None:
        """All that WRITEs can take now goes to memory."""
        while self._writes:
            write = self._writes[0]
            given = self._given[write.port]
            beats = min(given.bytes // self._beat, write.places.size - write.done)
            if beats:
                data = given.take(beats * self._beat).reshape(beats, self._beat)
                self._memory.write(write.places[write.done : write.done + beats], data)
                write.done += beats
            if write.done < write.places.size:
                return
            self._writes.popleft()

    def left(self, least: int = 1) -> str:
        """A port that has given `least` bytes or more which nobody has taken, or an empty string."""
        return next((f"{g.bytes} bytes of {port.name}" for port, g in self._given.items() if g.bytes >= least), "")
