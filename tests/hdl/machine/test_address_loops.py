# amaranth: UnusedElaboratable=no

"""Addresses of nested loops: every step as the model says, what may not be touched is marked, one step per cycle."""

from typing import Any

import numpy as np
import pytest
from amaranth.hdl import Module, Signal
from amaranth.sim import Simulator

from hdl.machine.address_loops import AddressLoops
from hdl.machine.jobs import Beats
from tests.hdl.streams import receive, send

BEATS = Beats(16, 1000, 50)
LOWEST = 300

Job = tuple[int, tuple[int, int, int, int], tuple[int, int, int], int]
"""Address, counts, strides in beats, token_dims."""

DIRECTED: list[Job] = [
    (310, (1, 1, 1, 1), (0, 0, 0), 1),
    (298, (4, 1, 1, 1), (0, 0, 0), 0),
    (998, (5, 1, 1, 1), (0, 0, 0), 1),
    (2, (2, 3, 1, 1), (-3, 0, 0), 2),
    (500, (3, 1, 2, 4), (7, -11, 60), 4),
    (1047, (6, 1, 1, 1), (0, 0, 0), 1),
]
"""One step; the limits from below and above; under address 0, which is the end of the addresses; all four loops; the
end of near memory."""


def jobs_at_random(count: int) -> list[Job]:
    rng = np.random.default_rng(3)
    jobs: list[Job] = []
    for _ in range(count):
        a, b, c, d = rng.integers(1, 5, 4).tolist()
        e, f, g = rng.integers(-200, 200, 3).tolist()
        jobs.append((int(rng.integers(1200)), (a, b, c, d), (e, f, g), int(rng.integers(5))))
    return jobs


def run(jobs: list[Job], *, stall: float = 0.0) -> list[int]:
    """Cycles of the steps; all are compared with the model."""
    dut = AddressLoops(BEATS)
    top = Module()
    top.submodules.dut = dut
    cycle = Signal(32)
    top.d.sync += cycle.eq(cycle + 1)
    modulus = 1 << BEATS.address_bits
    given, expected = [], []
    for where, (address, counts, strides, token_dims) in enumerate(jobs):
        given.append(
            {
                "address": address,
                "counts": counts,
                "strides": [stride % modulus for stride in strides],
                "token_dims": token_dims,
                "where": where,
            }
        )
        for place, last, final in AddressLoops.model(address, counts, strides, token_dims, BEATS.address_bits):
            outside = place >= BEATS.count + BEATS.near
            expected.append((place, last, final, place >= BEATS.count, outside, place < LOWEST, where))
    left: list[int] = []

    async def feed(ctx: Any) -> None:
        await send(ctx, dut.i, given, rng=np.random.default_rng(1))

    async def take(ctx: Any) -> None:
        ctx.set(dut.lowest, LOWEST)
        found = await receive(ctx, dut.o, len(expected), rng=np.random.default_rng(2), stall=stall)
        for one, wanted in zip(found, expected, strict=True):
            assert (one.address, one.last, one.final, one.near, one.outside, one.below, one.where) == wanted
        ctx.set(dut.o.ready, 1)
        for _ in range(5):
            assert not ctx.get(dut.o.valid)
            assert ctx.get(dut.o_idle)
            await ctx.tick()

    async def watch(ctx: Any) -> None:
        while True:
            _, _, now, moved = await ctx.tick().sample(cycle, dut.o.valid & dut.o.ready)
            if moved:
                left.append(now)

    simulator = Simulator(top)
    simulator.add_clock(1e-6)
    simulator.add_testbench(feed, background=True)
    simulator.add_testbench(watch, background=True)
    simulator.add_testbench(take)
    simulator.run()
    return left


@pytest.mark.parametrize("stall", [0.0, 0.5])
def test_every_step(stall: float) -> None:
    run([*DIRECTED, *jobs_at_random(20)], stall=stall)


def test_a_step_per_cycle_and_an_idle_one_between_jobs() -> None:
    left = run([(0, (3, 2, 2, 2), (10, 20, 40), 1), (5, (4, 1, 1, 1), (0, 0, 0), 1)])
    assert left[0] == AddressLoops.LATENCY
    assert left == [*range(left[0], left[0] + 24), *range(left[0] + 25, left[0] + 29)]


def test_the_model_counts_as_nested_loops_do() -> None:
    counts, strides = (2, 3, 2, 2), (5, 40, -100)
    steps = AddressLoops.model(7, counts, strides, 2, 28)
    nested = [
        (7 + a + 5 * b + 40 * c - 100 * d) % (1 << 28)
        for d in range(2)
        for c in range(2)
        for b in range(3)
        for a in range(2)
    ]
    assert [address for address, _, _ in steps] == nested
    assert [number for number, (_, last, _) in enumerate(steps) if last] == [5, 11, 17, 23]
    assert [number for number, (_, _, final) in enumerate(steps) if final] == [23]
