# amaranth: UnusedElaboratable=no

"""Nested loops step by step, with pauses, restarted with other counts."""

from typing import Any

import numpy as np
import pytest
from amaranth.sim import Simulator

from hdl.attention.loops import Loops


def test_every_step_knows_its_first_and_last_rounds() -> None:
    limits = [5, 3, 2]
    dut = Loops(limits)
    rng = np.random.default_rng(1)
    rounds = [[1, 1, 1], [5, 3, 2], [1, 3, 1], [4, 1, 2], [2, 2, 2], *rng.integers(1, [6, 4, 3], (6, 3)).tolist()]

    async def run(ctx: Any) -> None:
        for counts in rounds:
            ctx.set(dut.start, 1)
            ctx.set(dut.counts, {f"loop{number}": count for number, count in enumerate(counts)})
            await ctx.tick()
            ctx.set(dut.start, 0)
            for repeat in range(2):  # after the last step the loops are at their beginning again
                for step, (first, last) in enumerate(dut.model(counts)):
                    for _ in range(int(rng.integers(0, 3))):
                        await ctx.tick()
                    ends = np.logical_and.accumulate(last)
                    for port, wanted in ((dut.first, first), (dut.last, last), (dut.ends, ends)):
                        found = [bool(ctx.get(port) >> number & 1) for number in range(len(limits))]
                        assert found == list(wanted), (counts, repeat, step)
                    ctx.set(dut.step, 1)
                    await ctx.tick()
                    ctx.set(dut.step, 0)

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(run)
    simulator.run()


def test_the_number_of_loops_is_limited() -> None:
    with pytest.raises(ValueError, match=r"loops=0 must be in 1..8; nearest valid value: 1"):
        Loops([])
