"""Traces of what units did, in the JSON that ui.perfetto.dev and chrome://tracing open.

The file is an array of the Trace Event Format with one event per line: `[`, then one object a line with a comma behind
each but the last, then `]`. The format lets the closing bracket be missing, so that a file cut off behind a line is
still a trace. Per unit there is one thread with a complete event ("ph": "X") per state, and per stream a counter
("ph": "C"). Where a span sums up a stretch of several states, it has the name of the longest, `args` has the cycles of
each, and a counter shows the share of busy cycles. Tracks are threads of spans with names of their own ("cat":
"track"). Times are microseconds with three decimals, rounded from cycles / MHz at both ends of a span alike, so that
neighbours touch and never overlap; `args` of a span holds its cycles, exactly.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sim.contract.errors import UserError

STATES: Final = ("idle", "busy", "stalled on input", "stalled on output")
"""Names of spans; their places are the numbers that units report."""

TRACE_MHZ: Final = 100.0
"""Clock of traces, whatever a build reaches: a cycle takes 10 ns, so times read as cycles."""

PROCESS: Final = 1
MHZ_MAX: Final = 1000.0
"""A cycle has to last at least the nanosecond that a time is rounded to."""


@dataclass(frozen=True)
class UnitActivity:
    """What one unit did.

    starts: int64 (n,), ascending from 0, the cycles from which on it was in states[n]; states: uint8 (n,), places in
    STATES, neighbours different. transfers: by stream, int64 (m, 2): a cycle, and the transfers before it. counts:
    None, or int64 (n, 4): cycles in each of STATES from starts[n] to the next one, where they are not all of states[n];
    neighbours may have equal states then.
    """

    starts: NDArray[np.int64]
    states: NDArray[np.uint8]
    transfers: Mapping[str, NDArray[np.int64]]
    counts: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Span:
    """Cycles start..stop - 1 of a track, and what is to be known of them."""

    start: int
    stop: int
    name: str
    args: Mapping[str, Any]


@dataclass(frozen=True)
class Trace:
    """What the units of `title` did in `cycles` cycles of a clock of `mhz` MHz. tracks: spans behind one another."""

    title: str
    cycles: int
    mhz: float
    units: Mapping[str, UnitActivity]
    tracks: Mapping[str, Sequence[Span]] = field(default_factory=dict)

    def state_cycles(self, unit: str) -> NDArray[np.int64]:
        """Cycles that a unit spent in each of STATES, int64 (4,); their sum is `cycles`."""
        activity = self.units[unit]
        if activity.counts is not None:
            total: NDArray[np.int64] = activity.counts.sum(axis=0)
            return total
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
    for thread, name in enumerate([*trace.tracks, *trace.units], 1):
        place = {"pid": PROCESS, "tid": thread}
        yield {"ph": "M", **place, "ts": 0, "name": "thread_name", "args": {"name": name}}
        yield {"ph": "M", **place, "ts": 0, "name": "thread_sort_index", "args": {"sort_index": thread}}
        if name in trace.tracks:
            found = _track_events(trace.tracks[name], place, trace.mhz)
        else:
            found = _unit_events(name, trace.units[name], place, trace)
        timed += ((cycle, thread, event) for cycle, event in found)
    yield from (event for _, _, event in sorted(timed, key=lambda each: each[:2]))


def _span(start: int, stop: int, mhz: float) -> dict[str, Any]:
    """`ts` and `dur` of cycles start..stop - 1."""
    begin = nanoseconds(start, mhz)
    return {"ts": begin / 1000, "dur": (nanoseconds(stop, mhz) - begin) / 1000}


def _track_events(spans: Sequence[Span], place: Mapping[str, int], mhz: float) -> Iterator[tuple[int, dict[str, Any]]]:
    for span in spans:
        args = {"cycle": span.start, "cycles": span.stop - span.start, **span.args}
        event = {"ph": "X", **place, **_span(span.start, span.stop, mhz), "name": span.name, "cat": "track"}
        yield span.start, {**event, "args": args}


def _unit_events(
    unit: str, activity: UnitActivity, place: Mapping[str, int], trace: Trace
) -> Iterator[tuple[int, dict[str, Any]]]:
    ends = [*activity.starts[1:].tolist(), trace.cycles]
    shown = None
    for number, (start, end, state) in enumerate(
        zip(activity.starts.tolist(), ends, activity.states.tolist(), strict=True)
    ):
        args = {"cycle": start, "cycles": end - start}
        if activity.counts is not None:
            counts = activity.counts[number].tolist()
            args |= {name: count for name, count in zip(STATES, counts, strict=True) if count}
            busy = round(100 * counts[STATES.index("busy")] / max(end - start, 1), 1)
            if busy != shown:
                shown = busy
                time = nanoseconds(start, trace.mhz) / 1000
                yield start, {"ph": "C", **place, "ts": time, "name": f"{unit} busy", "args": {"percent": busy}}
        yield start, {"ph": "X", **place, **_span(start, end, trace.mhz), "name": STATES[state], "args": args}
    for stream, transfers in activity.transfers.items():
        for cycle, count in transfers.tolist():
            time = nanoseconds(cycle, trace.mhz) / 1000
            name = f"{unit} {stream} transfers"
            yield cycle, {"ph": "C", **place, "ts": time, "name": name, "args": {"transfers": count}}


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

    Raises ValueError when a thread has no name, a state is unknown, times fall, counters fall, the spans of a unit
    overlap, leave a gap, do not end at `cycles` or are not the sum of their states, or spans of a track overlap.
    """
    tracks = {event["tid"] for event in events if event.get("cat") == "track"}
    names = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}
    totals = {name: np.zeros(len(STATES), np.int64) for thread, name in names.items() if thread not in tracks}
    ends = dict.fromkeys(names, (0, 0))
    counts: dict[str, int] = {}
    last = 0.0
    for event in events:
        if event["ts"] < last:
            raise ValueError(f"time falls from {last} to {event['ts']} us")
        last = event["ts"]
        if event["ph"] == "C" and "transfers" in event["args"]:
            count = event["args"]["transfers"]
            if count < counts.get(event["name"], 0):
                raise ValueError(f"{event['name']} falls to {count}")
            counts[event["name"]] = count
        elif event["ph"] == "X":
            thread, span, begin = event["tid"], event["args"], round(event["ts"] * 1000)
            if thread not in names or (thread not in tracks and event["name"] not in STATES):
                raise ValueError(f"a span of an unknown unit or state: {event}")
            expected = ends[thread]
            if (span["cycle"], begin) < expected if thread in tracks else (span["cycle"], begin) != expected:
                raise ValueError(f"{names[thread]}: a span begins at {begin} ns, expected {expected}")
            ends[thread] = (span["cycle"] + span["cycles"], begin + round(event["dur"] * 1000))
            if thread not in tracks:
                totals[names[thread]] += _states_of(event)
    for name, total in totals.items():
        if total.sum() != cycles:
            raise ValueError(f"{name}: the spans cover {total.sum()} of {cycles} cycles")
    return totals


def _states_of(event: Mapping[str, Any]) -> NDArray[np.int64]:
    """Cycles of a unit's span in each of STATES, int64 (4,). Raises ValueError when they are not its cycles."""
    span = event["args"]
    found = np.array([span.get(name, 0) for name in STATES], np.int64)
    if not found.any():
        found[STATES.index(event["name"])] = span["cycles"]
    if found.sum() != span["cycles"]:
        raise ValueError(f"a span of {span['cycles']} cycles sums up {found.sum()}: {event}")
    return found


def shares(trace: Trace) -> str:
    """A line per unit for people: the share of cycles in each state."""
    lines = [f"{'share of ' + str(trace.cycles) + ' cycles':<24}" + "".join(f"{name:>19}" for name in STATES[1:])]
    for unit in trace.units:
        share = trace.state_cycles(unit) / trace.cycles
        lines.append(f"{unit:<24}" + "".join(f"{each:>19.1%}" for each in share[1:]))
    return "\n".join(lines)
