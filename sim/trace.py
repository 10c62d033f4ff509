"""Traces of what units did, in the JSON that ui.perfetto.dev and chrome://tracing open.

The file is an array of the Trace Event Format with one event per line: `[`, then one object a line with a comma behind
each but the last, then `]`. The format lets the closing bracket be missing, so that a file cut off behind a line is
still a trace. Per unit there is one thread with a complete event ("ph": "X") per state, and per stream a counter
("ph": "C"). Times are microseconds with three decimals, rounded from cycles / MHz at both ends of a span alike, so that
neighbours touch and never overlap; `args` of a span holds its cycles, exactly.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sim.contract.errors import UserError

STATES: Final = ("idle", "busy", "stalled on input", "stalled on output")
"""Names of spans; their places are the numbers that units report."""

PROCESS: Final = 1
MHZ_MAX: Final = 1000.0
"""A cycle has to last at least the nanosecond that a time is rounded to."""


@dataclass(frozen=True)
class UnitActivity:
    """What one unit did.

    starts: int64 (n,), ascending from 0, the cycles from which on it was in states[n]; states: uint8 (n,), places in
    STATES, neighbours different. transfers: by stream, int64 (m, 2): a cycle, and the transfers before it.
    """

    starts: NDArray[np.int64]
    states: NDArray[np.uint8]
    transfers: Mapping[str, NDArray[np.int64]]


@dataclass(frozen=True)
class Trace:
    """What the units of `title` did in `cycles` cycles of a clock of `mhz` MHz."""

    title: str
    cycles: int
    mhz: float
    units: Mapping[str, UnitActivity]

    def state_cycles(self, unit: str) -> NDArray[np.int64]:
        """Cycles that a unit spent in each of STATES, int64 (4,); their sum is `cycles`."""
        activity = self.units[unit]
        lengths = np.diff(activity.starts, append=self.cycles)
        return np.bincount(activity.states, lengths, len(STATES)).astype(np.int64)


def nanoseconds(cycle: int, mhz: float) -> int:
    """The start of a cycle, rounded to a nanosecond."""
    return round(cycle * 1000 / mhz)


def trace_events(trace: Trace) -> Iterator[dict[str, Any]]:
    """The events: names first, then spans and counters by time. Raises ValueError for a clock above MHZ_MAX."""
    if not 0 < trace.mhz <= MHZ_MAX:
        raise ValueError(f"mhz={trace.mhz} must be above 0 and at most {MHZ_MAX}")
    title = f"{trace.title}, {trace.mhz:g} MHz"
    yield {"ph": "M", "pid": PROCESS, "tid": 0, "ts": 0, "name": "process_name", "args": {"name": title}}
    timed: list[tuple[int, int, dict[str, Any]]] = []
    for thread, (unit, activity) in enumerate(trace.units.items(), 1):
        place = {"pid": PROCESS, "tid": thread}
        yield {"ph": "M", **place, "ts": 0, "name": "thread_name", "args": {"name": unit}}
        yield {"ph": "M", **place, "ts": 0, "name": "thread_sort_index", "args": {"sort_index": thread}}
        ends = [*activity.starts[1:].tolist(), trace.cycles]
        for start, end, state in zip(activity.starts.tolist(), ends, activity.states.tolist(), strict=True):
            begin = nanoseconds(start, trace.mhz)
            span = {
                "ph": "X",
                **place,
                "ts": begin / 1000,
                "dur": (nanoseconds(end, trace.mhz) - begin) / 1000,
                "name": STATES[state],
                "args": {"cycle": start, "cycles": end - start},
            }
            timed.append((start, thread, span))
        for stream, counts in activity.transfers.items():
            for cycle, count in counts.tolist():
                time = nanoseconds(cycle, trace.mhz) / 1000
                name = f"{unit} {stream} transfers"
                counter = {"ph": "C", **place, "ts": time, "name": name, "args": {"transfers": count}}
                timed.append((cycle, thread, counter))
    yield from (event for _, _, event in sorted(timed, key=lambda each: each[:2]))


def write_trace(path: Path, trace: Trace) -> None:
    """Write the file. Raises UserError when it cannot be written, ValueError as `trace_events` does."""
    lines = [json.dumps(event, separators=(",", ":")) for event in trace_events(trace)]
    try:
        path.write_text("[\n" + ",\n".join(lines) + "\n]\n")
    except OSError as error:
        raise UserError(f"cannot write the trace {path}: {error.strerror}") from None


def read_events(path: Path) -> list[dict[str, Any]]:
    """The events of a file, of one that was cut off behind a line too. Raises UserError when it is neither."""
    try:
        text = path.read_text().rstrip()
    except OSError as error:
        raise UserError(f"cannot read the trace {path}: {error.strerror}") from None
    if not text.endswith("]"):
        text = text.removesuffix(",") + "]"
    try:
        events = json.loads(text)
    except ValueError as error:
        raise UserError(f"{path} is no trace of one event per line: {error}") from None
    if not isinstance(events, list):
        raise UserError(f"{path} is no trace: an array of events was expected")
    return events


def check_events(events: list[dict[str, Any]], cycles: int) -> dict[str, NDArray[np.int64]]:
    """Cycles per state int64 (4,) by unit, of a whole trace of `cycles` cycles.

    Raises ValueError when a thread has no name, a state is unknown, times fall, counters fall, or the spans of a unit
    overlap, leave a gap or do not end at `cycles`.
    """
    names = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}
    totals = {name: np.zeros(len(STATES), np.int64) for name in names.values()}
    ends = dict.fromkeys(names, (0, 0))
    counts: dict[str, int] = {}
    last = 0.0
    for event in events:
        if event["ts"] < last:
            raise ValueError(f"time falls from {last} to {event['ts']} us")
        last = event["ts"]
        if event["ph"] == "C":
            count = event["args"]["transfers"]
            if count < counts.get(event["name"], 0):
                raise ValueError(f"{event['name']} falls to {count}")
            counts[event["name"]] = count
        elif event["ph"] == "X":
            if event["tid"] not in names or event["name"] not in STATES:
                raise ValueError(f"a span of an unknown unit or state: {event}")
            span, begin = event["args"], round(event["ts"] * 1000)
            if (span["cycle"], begin) != ends[event["tid"]]:
                raise ValueError(f"{names[event['tid']]}: a span begins at {begin} ns, expected {ends[event['tid']]}")
            ends[event["tid"]] = (span["cycle"] + span["cycles"], begin + round(event["dur"] * 1000))
            totals[names[event["tid"]]][STATES.index(event["name"])] += span["cycles"]
    for name, total in totals.items():
        if total.sum() != cycles:
            raise ValueError(f"{name}: the spans cover {total.sum()} of {cycles} cycles")
    return totals


def shares(trace: Trace) -> str:
    """A line per unit for people: the share of cycles in each state."""
    lines = [f"{'share of ' + str(trace.cycles) + ' cycles':<24}" + "".join(f"{name:>19}" for name in STATES[1:])]
    for unit in trace.units:
        share = trace.state_cycles(unit) / trace.cycles
        lines.append(f"{unit:<24}" + "".join(f"{each:>19.1%}" for each in share[1:]))
    return "\n".join(lines)
