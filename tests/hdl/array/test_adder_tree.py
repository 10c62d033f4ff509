# amaranth: UnusedElaboratable=no

"""The adder tree against sum()."""

from typing import Any

import numpy as np
import pytest
from amaranth.sim import Simulator

from hdl.array.adder_tree import AdderTree


@pytest.mark.parametrize(("inputs", "width"), [(2, 8), (3, 4), (7, 8), (16, 8), (64, 8)])
def test_sums_follow_after_the_latency_one_per_cycle(inputs: int, width: int) -> None:
    dut = AdderTree(inputs=inputs, width=width)
    rng = np.random.default_rng(inputs)
    low, high = -(1 << (width - 1)), 1 << (width - 1)
    values = rng.integers(low, high, (20, inputs))
    values[0], values[1] = low, high - 1
    sums: list[int] = []

    async def bench(ctx: Any) -> None:
        for cycle in range(len(values) + dut.latency):
            ctx.set(dut.i, values[min(cycle, len(values) - 1)].tolist())
            if cycle >= dut.latency:
                sums.append(ctx.get(dut.o))
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    assert sums == [AdderTree.model(row) for row in values.tolist()]


@pytest.mark.parametrize("parameters", [{"inputs": 0, "width": 8}, {"inputs": 4, "width": 0}])
def test_bad_parameters(parameters: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"nearest valid value: 1$"):
        AdderTree(**parameters)
