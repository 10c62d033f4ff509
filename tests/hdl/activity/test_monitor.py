# amaranth: UnusedElaboratable=no

"""The monitor beside real units: what it counts and reports is what the model makes of recorded handshakes."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from amaranth.back import rtlil
from amaranth.hdl import Fragment
from amaranth.lib import stream, wiring
from amaranth.sim import Simulator

import hdl as hdl_package
from hdl.activity.monitor import ActivityMonitor
from hdl.activity.observation import ROLES, observe
from hdl.activity.observed import Observed
from hdl.activity.state import State
from hdl.array.adder_tree import AdderTree
from hdl.units import UNITS, build_unit
from hdl.vector.residual import ResidualAdd
from tests.hdl.activity.handshakes import Handshakes, shake


def small(name: str) -> wiring.Component:
    component, _ = build_unit(name, {"preset": "tiny"} if "preset" in UNITS[name].parameters else {})
    return component


@pytest.mark.parametrize("name", UNITS)
def test_every_unit_can_be_observed(name: str) -> None:
    unit = small(name)
    observed = Observed(unit)
    streams = [
        port
        for port, member in unit.signature.members.items()
        if member.is_signature and isinstance(member.signature, stream.Signature)
    ]
    assert set(streams) <= set(observed.streams)
    assert len(observed.activity_o_transfers.as_value()) == 32 * len(observed.streams)
    fragment = Fragment.get(observed, None)
    assert [name for _, name, _ in fragment.subfragments] == ["unit", "activity"]


def test_roles_name_streams_that_exist() -> None:
    units = {type(unit).__name__: unit for unit in map(small, UNITS)}
    for kind, roles in ROLES.items():
        observed = {each.name: each.role for each in observe(units[kind], kind).streams}
        assert roles.items() <= observed.items()


def cells(text: str, module: str) -> Counter[tuple[str, ...]]:
    """Cells of a module of RTLIL and of all below it: kind and parameters, without the names of what they connect."""
    found: Counter[tuple[str, ...]] = Counter()
    inside, cell = False, []
    for line in map(str.strip, text.splitlines()):
        if line.startswith("module "):
            inside = line == f"module {module}" or line.startswith(f"module {module}.")
        elif inside and line.startswith(("cell ", "memory ", "switch ", "case ", "process ", "sync ")):
            cell = [line.split()[0], *(line.split()[1:2] if line.startswith("cell $") else [])]
        elif cell and line.startswith("parameter "):
            cell.append(line)
        elif cell:
            found[tuple(cell)] += 1
            cell = []
    return found


@pytest.mark.parametrize("name", ["residual", "loader", "rescale"])
def test_a_unit_has_the_same_cells_with_and_without(name: str) -> None:
    alone = rtlil.convert(small(name), name="top")
    observed = rtlil.convert(Observed(small(name)), name="top")
    expected = cells(alone, "\\top")
    assert expected.total() > 20
    assert cells(observed, "\\top.unit") == expected
    assert cells(observed, "\\top.activity").total() > 20
    assert "activity" not in alone


def test_no_unit_knows_of_its_monitor() -> None:
    """Off costs nothing because there is nothing to leave out."""
    hdl = Path(hdl_package.__file__).parent
    commands = {hdl / "__main__.py", hdl / "synth.py"}
    for file in set(hdl.rglob("*.py")) - commands - set((hdl / "activity").rglob("*.py")):
        assert "hdl.activity" not in file.read_text(), file


CYCLES = 1200


def watch(
    unit: wiring.Component, *, read: float, depth: int, counter_bits: int = 16
) -> tuple[Handshakes, list[bool], list[tuple[int, State]], dict[str, Any]]:
    """(handshakes, whether events were read in each cycle, events, counters at the end) of an observed unit."""
    observed = Observed(unit, counter_bits=counter_bits, event_depth=depth)
    rng = np.random.default_rng(depth)
    event = observed.activity_o_event
    reads: list[bool] = []
    counters: dict[str, Any] = {}

    def maybe_read(ctx: Any) -> None:
        reads.append(bool(rng.random() < read))
        ctx.set(event.ready, int(reads[-1]))

    def note(ctx: Any) -> None:
        counters["cycles"] = [ctx.get(observed.activity_o_cycles[state]) for state in State]
        counters["transfers"] = [ctx.get(each) for each in observed.activity_o_transfers]
        counters["dropped"] = ctx.get(observed.activity_o_dropped)

    seen = shake(
        observed, unit, cycles=CYCLES, seed=5, extra=[event.valid, event.p], each_cycle=maybe_read, at_end=note
    )
    events = [
        (payload.time, State(payload.state))
        for taking, (valid, payload) in zip(reads, seen.extra, strict=True)
        if taking and valid
    ]
    return seen, reads, events, counters


@pytest.mark.parametrize(("read", "depth"), [(1.0, 2), (0.2, 2), (0.0, 3)], ids=["read", "slow", "unread"])
def test_counters_and_events_are_the_models(read: float, depth: int) -> None:
    seen, reads, events, counters = watch(ResidualAdd(lanes=2), read=read, depth=depth)
    assert set(seen.states.tolist()) == {int(state) for state in State}
    # The monitor judges a cycle after it and counts it another one later.
    counted = seen.states[:-1]
    cycles, expected, dropped = ActivityMonitor.model(counted, read=reads[1:], event_depth=depth)
    assert counters["cycles"] == cycles.tolist()
    assert sum(counters["cycles"]) == CYCLES - 1
    assert counters["transfers"] == seen.transfers[:, :-1].sum(1).tolist()
    assert events == expected
    assert counters["dropped"] == dropped
    changes = int((np.diff(counted, prepend=State.IDLE) != 0).sum())
    if read == 1.0:
        assert dropped == 0
        assert changes - 1 <= len(events) <= changes  # the last one may be in the queue
    else:
        assert 0 < dropped < changes
        assert len(events) < changes


def test_a_unit_that_tells_when_it_is_idle() -> None:
    seen, _, _, counters = watch(small("layer_norm"), read=1.0, depth=2)
    assert seen.working is not None
    assert {State.IDLE, State.BUSY} <= set(seen.states.tolist())
    assert counters["cycles"] == ActivityMonitor.model(seen.states[:-1])[0].tolist()


def test_counters_wrap_around() -> None:
    seen, _, _, counters = watch(ResidualAdd(lanes=2), read=1.0, depth=2, counter_bits=8)
    cycles = np.bincount(seen.states[:-1], minlength=len(State))
    assert cycles.max() > 255
    assert counters["cycles"] == (cycles % 256).tolist()


def test_plain_ports_are_passed_through() -> None:
    observed = Observed(AdderTree(inputs=2, width=4))
    found: list[int] = []

    async def bench(ctx: Any) -> None:
        ctx.set(observed.i, [3, -8])
        await ctx.tick().repeat(4)
        found.append(ctx.get(observed.o))

    simulator = Simulator(observed)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    assert found == [-5]


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"counter_bits": 7}, "counter_bits=7 must be in 8..64; nearest valid value: 8"),
        ({"time_bits": 65}, "time_bits=65 must be in 8..64; nearest valid value: 64"),
    ],
)
def test_sizes_out_of_range_are_refused(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Observed(ResidualAdd(lanes=2), **sizes)
    with pytest.raises(ValueError, match=r"event_depth=0 must be in 1\.\.512; nearest valid value: 1"):
        ActivityMonitor(streams=1, event_depth=0)
