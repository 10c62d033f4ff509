"""The four states of a unit, and the one rule that tells them apart."""

import enum
from typing import Any

import numpy as np
from amaranth.hdl import Mux, Value
from numpy.typing import ArrayLike, NDArray


class State(enum.IntEnum):
    """What a unit does in a cycle; every cycle has exactly one.

    The first that applies:

    1. BUSY: something is transferred on a stream of the unit, either way.
    2. STALLED_OUTPUT: the unit is `blocked`: an output is valid and not ready.
    3. STALLED_INPUT: the unit is `working` and `awaited`: it lacks an input that it would take.
    4. BUSY: the unit is `working`: it computes from what it has.
    5. IDLE.

    hdl.activity.observation derives `blocked`, `awaited` and `working` from a unit's ports.
    """

    IDLE = 0
    BUSY = 1
    STALLED_INPUT = 2
    STALLED_OUTPUT = 3

    @property
    def label(self) -> str:
        """For people: "stalled on input"."""
        return self.name.lower().replace("_", " on ") if self.name.startswith("STALLED") else self.name.lower()


STATE_BITS = 2


def state_of(*, transfer: Value, blocked: Value, awaited: Value, working: Value) -> Value:
    """The state of the current cycle, STATE_BITS wide, from conditions of one bit."""
    without_stall = Mux(working, Mux(awaited, State.STALLED_INPUT, State.BUSY), State.IDLE)
    return Mux(transfer, State.BUSY, Mux(blocked, State.STALLED_OUTPUT, without_stall))


def state_model(
    *, transfer: ArrayLike, blocked: ArrayLike, awaited: ArrayLike, working: ArrayLike
) -> NDArray[np.uint8]:
    """The states (cycles,) from conditions, bool (cycles,); bit for bit what `state_of` gives."""
    conditions: list[Any] = [np.asarray(each, bool) for each in (transfer, blocked, working)]
    conditions.insert(2, conditions[2] & np.asarray(awaited, bool))
    states = [State.BUSY, State.STALLED_OUTPUT, State.STALLED_INPUT, State.BUSY]
    return np.select(conditions, states, State.IDLE).astype(np.uint8)
