"""Plugin of pytest (`-p benchmarks.coverage.recorder`): watches every simulation of the tests that run under it.

Writes {"lines": [[file, line], ...], "points": {title: test}} to the file that the environment names.
"""

import json
import os
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

import pytest
from amaranth.hdl import Cat, Fragment, Signal
from amaranth.sim import Simulator

from benchmarks.coverage.point import Point, conditions, elaborate_in_view
from benchmarks.coverage.points import POINTS
from benchmarks.coverage.statements import Line, Mark, mark_branches, place_assignments

FILE_VARIABLE: Final = "NIBBLESAM_COVERAGE_FILE"


class Recorder:
    """What has been reached so far, and by which test first."""

    def __init__(self) -> None:
        self.lines: set[Line] = set()
        self.points: dict[str, str] = {}
        self.test = ""
        self._top: Any = None
        self._probes: list[tuple[Signal, list[Point]]] = []
        self._building = False

    def install(self) -> None:
        """Watch every component that has points, and every simulation."""
        place_assignments()
        by_component: dict[type, list[Point]] = defaultdict(list)
        for point in POINTS:
            by_component[point.component].append(point)
        for component, points in by_component.items():
            self._watch_component(component, points)
        self._watch_simulator()

    def _watch_component(self, component: Any, points: list[Point]) -> None:
        original = component.elaborate

        def elaborate(unit: Any, platform: Any) -> Any:
            wanted = [point for point in points if point.title not in self.points]
            wanted = [point for point in wanted if not point.alone or unit is self._top]
            if not self._building or not wanted:
                return original(unit, platform)
            module, view = elaborate_in_view(original, unit, platform)
            hits = Signal(len(wanted), name="hits")
            module.d.sync += hits.eq(hits | Cat(conditions(wanted, view)))
            self._probes.append((hits, wanted))
            return module

        component.elaborate = elaborate

    def _watch_simulator(self) -> None:
        original = Simulator.__init__

        def build(simulator: Any, toplevel: Any, **arguments: Any) -> None:
            self._top, self._probes, self._building = toplevel, [], True
            try:
                fragment = Fragment.get(toplevel, None)
            finally:
                self._building = False
            marks: list[Mark] = []
            for found in mark_branches(fragment, self.lines):
                if isinstance(found, Mark):
                    marks.append(found)
                else:
                    self.lines |= found
            original(simulator, fragment, **arguments)
            self._watch_signals(simulator, marks, self._probes)

        Simulator.__init__ = build

    def _watch_signals(self, simulator: Any, marks: list[Mark], probes: list[tuple[Signal, list[Point]]]) -> None:
        signals = [mark.signal for mark in marks] + [hits for hits, _ in probes]
        if not signals:
            return

        async def watch(ctx: Any) -> None:
            async for values in ctx.changed(*signals):
                for mark, reached in zip(marks, values, strict=False):
                    if reached:
                        self.lines |= mark.lines
                for (_, points), hits in zip(probes, values[len(marks) :], strict=True):
                    for number, point in enumerate(points):
                        if hits >> number & 1:
                            self.points.setdefault(point.title, self.test)

        simulator.add_process(watch)


RECORDER = Recorder()


def pytest_configure() -> None:
    """Before any test is imported."""
    RECORDER.install()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Hits belong to this test from now on."""
    RECORDER.test = item.nodeid


def pytest_sessionfinish() -> None:
    """Write what was reached."""
    found = {"lines": sorted(RECORDER.lines), "points": RECORDER.points}
    Path(os.environ[FILE_VARIABLE]).write_text(json.dumps(found))
