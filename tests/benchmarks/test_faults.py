"""What counts as which outcome, and as a broken rule; the choice of faults."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.faults.injection import KINDS, injections
from benchmarks.faults.network import target
from benchmarks.faults.outcome import Outcome, classify
from sim.bench.machine_bench import MachineRun
from sim.machine.faults import Fault
from sim.machine.presets import PRESETS

BEFORE = np.arange(64, dtype=np.uint8)
AFTER = np.where(BEFORE < 32, BEFORE, 7).astype(np.uint8)
DONE = MachineRun(AFTER.tobytes(), 100, True, Fault.NONE, 0, 5, 2, 0, frozenset(), 0.1)
STOPPED = replace(DONE, done=False, fault=Fault.RANGE, where=96, memory=BEFORE.tobytes())


def changed(address: int) -> bytes:
    memory = AFTER.copy()
    memory[address] ^= 1
    return memory.tobytes()


@pytest.mark.parametrize(
    ("run", "may_differ", "outcome", "violations"),
    [
        (DONE, False, Outcome.SAME, ()),
        (replace(DONE, memory=changed(40)), True, Outcome.OTHER, ()),
        (replace(DONE, memory=changed(40)), False, Outcome.OTHER, ("other data unnoticed",)),
        (replace(DONE, memory=changed(31)), True, Outcome.SAME, ("memory below `writable` changed",)),
        (STOPPED, False, Outcome.STOPPED, ()),
        (replace(STOPPED, memory=changed(0)), False, Outcome.STOPPED, ("memory below `writable` changed",)),
        (replace(STOPPED, late_writes=1), False, Outcome.STOPPED, ("requests to write after the error",)),
        (replace(STOPPED, done=True), False, Outcome.STOPPED, ("done with an error",)),
        (replace(STOPPED, fault=Fault.WATCHDOG), False, Outcome.WATCHDOG, ()),
        (replace(DONE, done=False), True, Outcome.HUNG, ("hung",)),
    ],
)
def test_classes(run: MachineRun, may_differ: bool, outcome: Outcome, violations: tuple[str, ...]) -> None:
    verdict = classify(run, BEFORE, AFTER, 32, may_differ=may_differ)
    assert (verdict.outcome, verdict.violations) == (outcome, violations)
    assert (verdict.fault, verdict.where) == (run.fault, run.where)


def test_faults_are_of_every_kind_and_change_what_they_say() -> None:
    aim = target(PRESETS["small"], 1)
    made = injections(aim, 240, 5, 10_000)
    assert made == injections(aim, 240, 5, 10_000)
    assert {one.kind for one in made} == set(KINDS)
    image = len(aim.program.image)
    for one in made[:24]:
        differing = np.flatnonzero(one.applied(aim.memory, image) != aim.memory)
        assert (differing.size == 1) == (one.flip is not None) or one.cut is not None
        assert one.cut is None or (differing.size > 0 and differing.min() >= one.cut and differing.max() < image)
