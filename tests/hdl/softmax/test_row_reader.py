# amaranth: UnusedElaboratable=no

"""The engine that reads rows out of a memory, and the queues and credits between."""

from typing import Any

import numpy as np
import pytest
from amaranth.sim import Simulator

from hdl.softmax.queue import CreditQueue, Credits
from hdl.softmax.row_reader import RowReader


def simulate(unit: Any, bench: Any) -> None:
    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


def test_the_reader_runs_from_row_to_row_without_a_gap() -> None:
    unit = RowReader(6, row_words=5, depth=8)
    rows = [(11, 3), (12, 1), (13, 1), (14, 5), (15, 2), (16, 4)]
    expected = [(fact, place == 0, place == words - 1) for fact, words in rows for place in range(words)]
    seen: list[tuple[int, bool, bool]] = []
    addresses: list[int] = []
    cycles: list[int] = []

    async def bench(ctx: Any) -> None:
        waiting = list(rows)
        for cycle in range(60):
            if waiting:
                ctx.set(unit.i.payload, {"fact": waiting[0][0], "words": waiting[0][1]})
            ctx.set(unit.i.valid, bool(waiting))
            ctx.set(unit.enable, cycle < 9 or cycle % 3 == 0)
            if ctx.get(unit.read):
                seen.append((ctx.get(unit.fact), bool(ctx.get(unit.first)), bool(ctx.get(unit.last))))
                addresses.append(ctx.get(unit.address))
                cycles.append(cycle)
            if waiting and ctx.get(unit.i.ready):
                waiting.pop(0)
            await ctx.tick()

    simulate(unit, bench)
    assert seen == expected
    assert addresses == [place % 8 for place in range(len(expected))]
    assert cycles[:8] == list(range(1, 9))


def test_credits_say_when_none_is_left() -> None:
    unit = Credits(3)
    rng = np.random.default_rng(4)

    async def bench(ctx: Any) -> None:
        free = 3
        for _ in range(300):
            available = bool(ctx.get(unit.available))
            assert available == (free > 0)
            spend, refund = available and rng.random() < 0.6, free < 3 and rng.random() < 0.5
            ctx.set(unit.spend, spend)
            ctx.set(unit.refund, refund)
            free += int(refund) - int(spend)
            await ctx.tick()

    simulate(unit, bench)


def test_a_queue_keeps_order_and_is_filled_to_the_last_place() -> None:
    unit = CreditQueue(9, depth=4)
    rng = np.random.default_rng(5)
    sent: list[int] = []
    taken: list[int] = []
    fullest = 0

    async def bench(ctx: Any) -> None:
        nonlocal fullest
        for cycle in range(400):
            write = len(sent) - len(taken) < 4 and rng.random() < 0.7
            ctx.set(unit.i_valid, write)
            ctx.set(unit.i, cycle)
            ctx.set(unit.o.ready, rng.random() < (0.2 if cycle < 200 else 0.9))
            if ctx.get(unit.o.valid) and ctx.get(unit.o.ready):
                taken.append(ctx.get(unit.o.payload))
            if write:
                sent.append(cycle)
            fullest = max(fullest, len(sent) - len(taken))
            await ctx.tick()

    simulate(unit, bench)
    assert taken == sent[: len(taken)]
    assert len(taken) > 150
    assert fullest == 4


@pytest.mark.parametrize("depth", [0, 1, 3, 48])
def test_sizes_that_are_no_power_of_two_are_refused(depth: int) -> None:
    nearest = {0: 2, 1: 2, 3: 4, 48: 64}[depth]
    with pytest.raises(ValueError, match=f"depth={depth} must be a power of two .* nearest valid value: {nearest}"):
        CreditQueue(4, depth=depth)
    with pytest.raises(ValueError, match=f"depth={depth} must be a power of two .* nearest valid value: {nearest}"):
        RowReader(4, row_words=5, depth=depth)
    with pytest.raises(ValueError, match="credits=0 must be at least 1"):
        Credits(0)
