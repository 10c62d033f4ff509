"""Memory to memory."""

from typing import Final

from sim.executor.unit import Batch, Output
from sim.machine.ports import Port


class CopyUnit:
    """COPY to COPIED, beat by beat."""

    inputs: Final = frozenset({Port.COPY})

    def take(self, batch: Batch) -> list[Output]:
        """Every beat leaves as it came."""
        return [(Port.COPIED, batch.data.reshape(-1))]

    def left(self) -> str:
        """Nothing ever stays."""
        return ""
