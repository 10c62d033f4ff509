"""The trace file: valid JSON of one event per line, readable when cut off, and checked as strictly as it is written."""

import json
from pathlib import Path

import numpy as np
import pytest

from sim.contract.errors import UserError
from sim.trace import (
    STATES,
    Span,
    Trace,
    UnitActivity,
    check_events,
    nanoseconds,
    read_events,
    shares,
    trace_events,
    write_trace,
)

IDLE, BUSY, STALLED_INPUT, STALLED_OUTPUT = range(4)


def example(mhz: float = 150.0) -> Trace:
    loader = UnitActivity(
        np.array([0, 3, 10, 11]),
        np.array([IDLE, BUSY, STALLED_INPUT, BUSY], np.uint8),
        {"i_weights": np.array([[0, 0], [8, 4], [19, 9]])},
    )
    return Trace("layer", 20, mhz, {"loader": loader, "array": _single(STALLED_OUTPUT)})


def _single(state: int) -> UnitActivity:
    return UnitActivity(np.array([0]), np.array([state], np.uint8), {})


@pytest.mark.parametrize("mhz", [100.0, 150.0, 187.3, 1000.0])
def test_a_trace_written_is_read_back_whole(tmp_path: Path, mhz: float) -> None:
    path = tmp_path / "trace.json"
    trace = example(mhz)
    write_trace(path, trace)
    lines = path.read_text().splitlines()
    assert (lines[0], lines[-1]) == ("[", "]")
    assert [json.loads(line.removesuffix(",")) for line in lines[1:-1]] == json.loads(path.read_text())
    events = read_events(path)
    assert events == list(trace_events(trace))
    totals = check_events(events, trace.cycles)
    assert totals["loader"].tolist() == trace.state_cycles("loader").tolist() == [3, 16, 1, 0]
    assert totals["array"].tolist() == [0, 0, 0, 20]
    assert {event["name"] for event in events if event["ph"] == "X"} <= set(STATES)
    spans = [event for event in events if event["ph"] == "X" and event["tid"] == 1]
    assert sum(round(1000 * span["dur"]) for span in spans) == nanoseconds(20, mhz)
    counters = [(event["ts"], event["args"]["transfers"]) for event in events if event["ph"] == "C"]
    assert counters == [(nanoseconds(cycle, mhz) / 1000, count) for cycle, count in [(0, 0), (8, 4), (19, 9)]]


def test_times_are_microseconds_of_the_clock() -> None:
    spans = [event for event in trace_events(example(100.0)) if event["ph"] == "X" and event["tid"] == 1]
    assert [(span["ts"], span["dur"]) for span in spans] == [(0.0, 0.03), (0.03, 0.07), (0.1, 0.01), (0.11, 0.09)]


def test_a_file_cut_off_behind_any_line_is_still_a_trace(tmp_path: Path) -> None:
    path, cut = tmp_path / "trace.json", tmp_path / "cut.json"
    write_trace(path, example())
    lines = path.read_text().splitlines()
    whole = read_events(path)
    for count in range(1, len(lines)):
        cut.write_text("\n".join(lines[:count]) + "\n")
        assert read_events(cut) == whole[: count - 1]
    cut.write_text("\n".join(lines[:3])[:-9])
    with pytest.raises(UserError, match="is no trace of one event per line"):
        read_events(cut)


def test_what_is_no_trace_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read the trace"):
        read_events(tmp_path / "none.json")
    with pytest.raises(UserError, match="cannot write the trace"):
        write_trace(tmp_path / "none" / "trace.json", example())
    with pytest.raises(ValueError, match=r"mhz=2000.0 must be above 0 and at most 1000.0"):
        list(trace_events(example(2000.0)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dur": 1.0}, "a span begins at"),
        ({"ts": 0.0}, "time falls"),
        ({"name": "lazy"}, "unknown unit or state"),
        ({"tid": 9}, "unknown unit or state"),
        ({"args": {"cycle": 3, "cycles": 6}}, "a span begins at"),
    ],
)
def test_the_check_sees_a_span_that_does_not_fit(change: dict[str, object], message: str) -> None:
    events = list(trace_events(example()))
    index = next(number for number, event in enumerate(events) if event["ph"] == "X" and event["ts"] > 0)
    later = index + 1 if "ts" in change else index
    events[later] = {**events[later], **change}
    with pytest.raises(ValueError, match=message):
        check_events(events, 20)


def test_the_check_sees_missing_cycles_and_falling_counters() -> None:
    events = list(trace_events(example()))
    with pytest.raises(ValueError, match="the spans cover 20 of 21 cycles"):
        check_events(events, 21)
    last = max(number for number, event in enumerate(events) if event["ph"] == "C")
    events[last] = {**events[last], "args": {"transfers": 3}}
    with pytest.raises(ValueError, match="loader i_weights transfers falls to 3"):
        check_events(events, 20)


def test_shares_are_of_all_cycles() -> None:
    header, loader, array = shares(example()).splitlines()
    assert " ".join(header.split()) == "share of 20 cycles busy stalled on input stalled on output"
    assert loader.split() == ["loader", "80.0%", "5.0%", "0.0%"]
    assert array.split() == ["array", "0.0%", "0.0%", "100.0%"]


def summed() -> Trace:
    """Two windows of 10 cycles, and a track."""
    counts = np.array([[2, 5, 3, 0], [0, 1, 0, 9]])
    unit = UnitActivity(np.array([0, 10]), np.array([BUSY, STALLED_OUTPUT], np.uint8), {}, counts)
    return Trace(
        "model", 20, 100.0, {"array": unit}, {"layers": [Span(0, 12, "a", {"MACs": 7}), Span(15, 20, "b", {})]}
    )


def test_windows_keep_the_cycles_of_every_state() -> None:
    events = list(trace_events(summed()))
    assert check_events(events, 20)["array"].tolist() == summed().state_cycles("array").tolist() == [2, 6, 3, 9]
    spans = [event for event in events if event["ph"] == "X"]
    assert [(span["name"], span["args"]) for span in spans if "cat" not in span] == [
        ("busy", {"cycle": 0, "cycles": 10, "idle": 2, "busy": 5, "stalled on input": 3}),
        ("stalled on output", {"cycle": 10, "cycles": 10, "busy": 1, "stalled on output": 9}),
    ]
    assert [(span["name"], span["ts"], span["dur"], span["args"]) for span in spans if "cat" in span] == [
        ("a", 0.0, 0.12, {"cycle": 0, "cycles": 12, "MACs": 7}),
        ("b", 0.15, 0.05, {"cycle": 15, "cycles": 5}),
    ]
    counters = [(event["name"], event["ts"], event["args"]) for event in events if event["ph"] == "C"]
    assert counters == [("array busy", 0.0, {"percent": 50.0}), ("array busy", 0.1, {"percent": 10.0})]


def test_the_check_sees_windows_that_do_not_add_up_and_tracks_that_overlap() -> None:
    events = list(trace_events(summed()))
    window = next(number for number, event in enumerate(events) if event.get("args", {}).get("idle"))
    wrong = {**events[window], "args": {**events[window]["args"], "idle": 3}}
    with pytest.raises(ValueError, match="a span of 10 cycles sums up 11"):
        check_events([*events[:window], wrong, *events[window + 1 :]], 20)
    late = next(number for number, event in enumerate(events) if event["name"] == "b")
    wrong = {**events[late], "args": {"cycle": 11, "cycles": 9}}
    with pytest.raises(ValueError, match="layers: a span begins at 150 ns"):
        check_events([*events[:late], wrong, *events[late + 1 :]], 20)
