"""The states of a unit: exclusive, exhaustive, and by the written rule, over every combination of conditions."""

import itertools

import numpy as np
import pytest
from amaranth.hdl import Module, Signal
from amaranth.sim import Simulator

from hdl.activity.observation import Role, conditions_model
from hdl.activity.state import STATE_BITS, State, state_model, state_of

ALL = np.array(list(itertools.product((False, True), repeat=4)))


def rule(transfer: bool, blocked: bool, awaited: bool, working: bool) -> State:
    """The list in State's docstring, read aloud."""
    if transfer:
        return State.BUSY
    if blocked:
        return State.STALLED_OUTPUT
    if working and awaited:
        return State.STALLED_INPUT
    return State.BUSY if working else State.IDLE


def test_model_and_hardware_follow_the_rule_in_all_sixteen_cases() -> None:
    names = ("transfer", "blocked", "awaited", "working")
    expected = [rule(*map(bool, case)) for case in ALL]
    assert state_model(**dict(zip(names, ALL.T, strict=True))).tolist() == expected
    assert set(expected) == set(State)
    m = Module()
    signals = {name: Signal(name=name) for name in names}
    state = Signal(STATE_BITS)
    m.d.comb += state.eq(state_of(**signals))
    seen = []

    async def bench(ctx: object) -> None:
        for case in ALL:
            for signal, value in zip(signals.values(), case, strict=True):
                ctx.set(signal, int(value))  # type: ignore[attr-defined]
            await ctx.delay(1e-9)  # type: ignore[attr-defined]
            seen.append(ctx.get(state))  # type: ignore[attr-defined]

    simulator = Simulator(m)
    simulator.add_testbench(bench)
    simulator.run()
    assert seen == expected


def of_one_cycle(roles: list[Role], valid: list[int], ready: list[int], working: int | None = None) -> State:
    columns = [np.array(each, bool)[:, None] for each in (valid, ready)]
    conditions = conditions_model(roles, *columns, working=None if working is None else np.array([working], bool))
    return State(int(state_model(**conditions)[0]))


IN, ANSWERING, SIDE, OUT = Role.REQUIRED, Role.ANSWERING, Role.SIDE, Role.OUTPUT


@pytest.mark.parametrize(
    ("roles", "valid", "ready", "working", "state"),
    [
        ([IN, OUT], [1, 0], [1, 1], None, State.BUSY),
        ([IN, OUT], [1, 1], [1, 0], None, State.BUSY),  # taking on while the output waits is work
        ([IN, OUT], [1, 1], [0, 0], None, State.STALLED_OUTPUT),
        ([IN, OUT], [0, 0], [1, 1], None, State.IDLE),
        ([IN, OUT], [0, 0], [1, 1], 1, State.STALLED_INPUT),
        ([IN, OUT], [0, 0], [0, 1], 1, State.BUSY),  # computes, and would not take anything
        ([IN, OUT], [1, 0], [0, 1], None, State.BUSY),  # keeps the input waiting
        ([IN, OUT], [1, 0], [0, 1], 0, State.IDLE),
        ([ANSWERING, ANSWERING, OUT], [1, 0, 0], [0, 1, 1], None, State.STALLED_INPUT),  # one operand of two
        ([SIDE, IN, OUT], [0, 1, 0], [1, 0, 1], None, State.BUSY),  # no new setting stalls nothing
        ([SIDE, IN, OUT], [1, 0, 0], [1, 1, 1], 0, State.BUSY),  # taking one is work
        ([], [], [], None, State.BUSY),  # a pipeline that never stops
    ],
)
def test_the_conditions_of_streams(
    roles: list[Role], valid: list[int], ready: list[int], working: int | None, state: State
) -> None:
    if not roles:
        empty = np.zeros((0, 1), bool)
        assert state_model(**conditions_model(roles, empty, empty)).tolist() == [state]
        return
    assert of_one_cycle(roles, valid, ready, working) == state


def test_labels_are_the_names_of_the_trace() -> None:
    from sim.trace import STATES

    assert tuple(state.label for state in State) == STATES
