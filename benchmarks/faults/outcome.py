"""How a run with a fault ended, and what it must never do."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sim.bench.machine_bench import MachineRun
from sim.machine.faults import Fault


class Outcome(StrEnum):
    """SAME: finished, memory as without the fault. OTHER: finished, with other data. STOPPED: in the error state.
    WATCHDOG: there as well, for want of progress. HUNG: none of these within the cycles allowed."""

    SAME = "same"
    OTHER = "other"
    STOPPED = "stopped"
    WATCHDOG = "watchdog"
    HUNG = "hung"


LIMITS: Final = (
    "hung",
    "done with an error",
    "memory below `writable` changed",
    "requests to write after the error",
    "other data unnoticed",
)
"""What a run may violate."""


@dataclass(frozen=True)
class Verdict:
    """outcome; fault and where, as the machine tells them; the LIMITS that the run violates."""

    outcome: Outcome
    fault: Fault
    where: int
    violations: tuple[str, ...]


def classify(
    run: MachineRun, before: NDArray[np.uint8], after: NDArray[np.uint8], writable: int, *, may_differ: bool
) -> Verdict:
    """Judge a run.

    before: memory at the start, after: as it is without a fault, uint8 (bytes,); they are compared below and from
    `writable` on. may_differ: other data are to be expected, or the host has refused the image.
    """
    memory = np.frombuffer(run.memory, np.uint8)
    if run.fault != Fault.NONE:
        outcome = Outcome.WATCHDOG if run.fault == Fault.WATCHDOG else Outcome.STOPPED
    elif not run.done:
        outcome = Outcome.HUNG
    else:
        outcome = Outcome.SAME if np.array_equal(memory[writable:], after[writable:]) else Outcome.OTHER
    violated = (
        outcome == Outcome.HUNG,
        run.done and run.fault != Fault.NONE,
        not np.array_equal(memory[:writable], before[:writable]),
        run.late_writes > 0,
        outcome == Outcome.OTHER and not may_differ,
    )
    violations = tuple(limit for limit, one in zip(LIMITS, violated, strict=True) if one)
    return Verdict(outcome, run.fault, run.where, violations)
