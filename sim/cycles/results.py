"""Results of the array on their way out: to memory, or to the activation unit by a route."""

from collections.abc import Container

from sim.cycles import delays
from sim.cycles.delays import Delays
from sim.cycles.port import Port as MemoryPort
from sim.cycles.writer import Writer
from sim.machine.ports import Port, payload_bytes
from sim.machine.presets import MachinePreset


class ResultsTime:
    """rate: cycles of a beat of external memory. routes: outputs that are led to a unit."""

    def __init__(
        self, preset: MachinePreset, rate: float, *, writer: Writer, memory: MemoryPort, routes: Container[Port]
    ) -> None:
        self._beats, self._rate = payload_bytes(Port.RESULTS, preset) / preset.beat_bytes, rate
        self._writer, self._memory, self._routes = writer, memory, routes
        self._latency = Delays(preset).result
        self._end = 0.0
        self.activated = 0.0  # beats that went to the activation unit

    def passed(self, tokens: int, start: float, end: float) -> float:
        """Tokens of a RUN with results pass from start to `end` or, as results leave more slowly, what is returned.

        The array is ahead of its results by what its FIFO holds.
        """
        port = Port.ACTIVATED if Port.RESULTS in self._routes else Port.RESULTS
        near = self._writer.near(port)
        pace = max(1.0, self._beats * (1.0 if near else self._rate))
        first = max(start + self._latency, self._end)
        self._end = max(first + tokens * pace, end + self._latency + self._beats)
        behind = delays.ROUTE + delays.ACTIVATION if port == Port.ACTIVATED else 0
        self.activated += tokens * self._beats if port == Port.ACTIVATED else 0
        if not near:
            self._memory.results(first + behind, self._end + behind, tokens * self._beats)
        self._writer.given(port, tokens * self._beats, self._end + behind)
        return max(end, self._end - self._latency - delays.RESULTS_DEPTH * pace)
