"""Points of the activity monitor."""

from typing import Any, Final

from amaranth.hdl import Cat

from benchmarks.coverage.point import Point, View
from hdl.activity.monitor import ActivityMonitor
from hdl.activity.state import State


def _monitor(name: str, condition: Any) -> Point:
    return Point("activity monitor", name, ActivityMonitor, condition)


def _wraps(at: View) -> Any:
    return at.running & Cat((at.unit.o_state == state) & at.unit.o_cycles[state].all() for state in State).any()


POINTS: Final = (
    *(
        _monitor(f"a cycle counted as {state.label}", lambda at, state=state: at.running & (at.unit.o_state == state))
        for state in State
    ),
    _monitor("a change is reported at once", lambda at: at.wanted & at.changed & at.queue.w_rdy),
    _monitor("a change finds the queue full", lambda at: at.wanted & at.changed & ~at.queue.w_rdy),
    _monitor("a gap ends with the state of the moment", lambda at: at.wanted & ~at.changed & at.queue.w_rdy),
    _monitor(
        "a change back while the queue is full leaves nothing to report",
        lambda at: ~at.wanted & at.changed & ~at.queue.w_rdy,
    ),
    _monitor("an event waits for the reader", lambda at: at.unit.o_event.valid & ~at.unit.o_event.ready),
    _monitor("a counter wraps around", _wraps),
)
