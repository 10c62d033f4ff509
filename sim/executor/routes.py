"""Outputs that go to an input port on the chip instead of memory."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sim.executor.unit import Batch, check
from sim.machine.ports import ROUTES, Port
from sim.machine.presets import MachinePreset

STARTS: Final = {
    Port.NORMED: Port.NORM_VALUES,
    Port.ENCODED: Port.ENCODER_VALUES,
    Port.RESULTS: Port.ARRAY_COMMAND,
    Port.CONVOLVED: Port.DEPTHWISE_VALUES,
    Port.SUMS: Port.RESIDUAL_VALUES,
}
"""The input that sets going what an output of ROUTES gives."""


@dataclass
class _Route:
    """Where beats go, beats of a token or 0, and how many have come since the last one ended."""

    to: Port
    beats: int
    since: int = 0


class Routes:
    """Which routes are on; all are off at first."""

    def __init__(self, preset: MachinePreset) -> None:
        self._beat = preset.beat_bytes
        self._on: dict[Port, _Route] = {}

    def change(self, source: int, on: int, beats: int) -> None:
        """A record of Port.ROUTE. Raises OperandError for no such route, or an input that another one feeds."""
        routed = {int(port): port for port in ROUTES}
        check(source in routed, f"no route begins at port {source}")
        check(on in (0, 1), f"a route is on, 1, or off, 0, not {on}")
        port = routed[source]
        if not on:
            self._on.pop(port, None)
            return
        others = [other.name for other, route in self._on.items() if route.to == ROUTES[port] and other != port]
        check(not others, f"{ROUTES[port].name} already takes what {''.join(others)} gives")
        self._on[port] = _Route(ROUTES[port], beats)

    def target(self, output: Port) -> Port | None:
        """The input that takes what an output gives, or None for memory."""
        route = self._on.get(output)
        return route.to if route else None

    def source(self, port: Port) -> Port | None:
        """The output that feeds an input, or None."""
        return next((output for output, route in self._on.items() if route.to == port), None)

    def batches(self, output: Port, data: NDArray[np.uint8]) -> list[Batch]:
        """Whole beats, uint8 (bytes,), of an output whose route is on, as its input takes them."""
        route, beats = self._on[output], data.reshape(-1, self._beat)
        if not route.beats:
            return [Batch(route.to, beats)] if len(beats) else []
        # A token that began with what came before ends in a batch of its own: Batch counts from its first payload.
        rest = (route.beats - route.since) % route.beats
        route.since = (route.since + len(beats)) % route.beats
        parts = ((beats[:rest], rest), (beats[rest:], route.beats))
        return [Batch(route.to, part, token if len(part) >= token else 0) for part, token in parts if len(part)]
