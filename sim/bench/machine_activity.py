"""What the units of the simulated machine did, in windows of cycles, and the timeline of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hdl.activity.machine_parts import UNITS
from hdl.activity.state import State
from sim.machine.presets import MachinePreset
from sim.trace import TRACE_MHZ, Span, Trace, UnitActivity

LAYERS: Final = "layers"


@dataclass(frozen=True)
class Watch:
    """window: cycles that are counted together; 0: as few as leave 2,048 windows or less. marks: numbers of commands,
    ascending, whose first cycles are wanted."""

    window: int = 0
    marks: tuple[int, ...] = ()


@dataclass(frozen=True)
class Activity:
    """What the units did.

    window: cycles of a row of counts, of the last one perhaps fewer. counts: int64 (windows, units, states), places of
    hdl.activity.state.State. marks: cycles in which the marked commands came to the control; those that did not come
    are missing.
    """

    window: int
    units: tuple[str, ...]
    counts: NDArray[np.int64]
    marks: tuple[int, ...]


def units_of(preset: MachinePreset) -> tuple[str, ...]:
    """Those of hdl.activity.machine_parts that the machine has."""
    return tuple(name for name in UNITS if preset.near_bytes or name != "near memory")


def read_activity(path: Path, units: tuple[str, ...]) -> Activity:
    """The file that machine_probes.h describes."""
    content = path.read_bytes()
    window, count = np.frombuffer(content, "<u8", 2).tolist()
    marks = np.frombuffer(content, "<u8", count, 16).tolist()
    counts = np.frombuffer(content, "<u4", -1, 16 + 8 * count).astype(np.int64)
    return Activity(window, units, counts.reshape(-1, len(units), len(State)), tuple(marks))


def trace_of_runs(title: str, runs: Sequence[tuple[Activity, Sequence[str]]]) -> Trace:
    """One timeline of runs one behind the other, each with the names of the layers that begin at its marks."""
    units: dict[str, list[tuple[NDArray[np.int64], NDArray[np.int64]]]] = {name: [] for name in runs[0][0].units}
    spans: list[Span] = []
    begin = 0
    for activity, names in runs:
        cycles = int(activity.counts[:, 0].sum())
        starts = begin + np.arange(len(activity.counts)) * activity.window
        for place, unit in enumerate(activity.units):
            units[unit].append((starts, activity.counts[:, place]))
        edges = [0, *activity.marks[1:], cycles]
        for name, first, stop in zip(names, edges, edges[1:], strict=False):
            spans.append(Span(begin + first, begin + stop, name, {}))
        begin += cycles
    return Trace(title, begin, TRACE_MHZ, _merged_units(units), {LAYERS: spans})


def _merged_units(
    units: Mapping[str, Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]]],
) -> dict[str, UnitActivity]:
    return {
        unit: merged(np.concatenate([one for one, _ in parts]), np.concatenate([one for _, one in parts]))
        for unit, parts in units.items()
    }


def merged(starts: NDArray[np.int64], counts: NDArray[np.int64]) -> UnitActivity:
    """Windows (n,) with the cycles (n, states) in each, neighbours of equal shares as one span.

    A span has the state in which the unit spent most of its cycles.
    """
    lengths = counts.sum(axis=1)
    fresh = np.ones(len(starts), np.bool_)
    # Equal shares: products instead of quotients, as windows may differ in length.
    fresh[1:] = (counts[1:] * lengths[:-1, None] != counts[:-1] * lengths[1:, None]).any(axis=1)
    groups = np.flatnonzero(fresh)
    summed = np.add.reduceat(counts, groups)
    return UnitActivity(starts[groups], summed.argmax(axis=1).astype(np.uint8), {}, summed)
