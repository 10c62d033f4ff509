# amaranth: UnusedElaboratable=no

"""Sums of tokens back to back, with gaps, at the extremes."""

from typing import Any

import numpy as np
import pytest
from amaranth.sim import Simulator

from hdl.layer_norm.token_sums import TokenSums


@pytest.mark.parametrize("lanes", [1, 2, 4])
@pytest.mark.parametrize("gap", [0.0, 0.3])
def test_sums_equal_the_model(lanes: int, gap: float) -> None:
    rng = np.random.default_rng(lanes)
    tokens = [rng.integers(-32768, 32768, (int(groups), lanes)) for groups in rng.integers(1, 9, 12)]
    # Of 4,096 wrong squares the errors may add up to a multiple of what the sum holds; of three they do not.
    tokens += [
        np.full((4096 // lanes, lanes), -32768),
        np.full((3, lanes), -32768),
        np.full((1, lanes), 32767),
        np.zeros((3, lanes), int),
    ]
    dut = TokenSums(lanes=lanes)
    ends: list[int] = []
    sums: list[tuple[int, dict[str, int]]] = []

    async def watch(ctx: Any) -> None:
        cycle = 0
        async for _, _, last, valid, payload in ctx.tick().sample(dut.valid & dut.last, dut.o.valid, dut.o.payload):
            cycle += 1
            if last:
                ends.append(cycle)
            if valid:
                sums.append((cycle, {"sum": payload.sum, "squares": payload.squares}))

    async def bench(ctx: Any) -> None:
        for token in tokens:
            for group, channels in enumerate(token.tolist()):
                while rng.random() < gap:
                    ctx.set(dut.valid, 0)
                    await ctx.tick()
                ctx.set(dut.valid, 1)
                ctx.set(dut.first, group == 0)
                ctx.set(dut.last, group == len(token) - 1)
                ctx.set(dut.x, channels)
                await ctx.tick()
        ctx.set(dut.valid, 0)
        await ctx.tick().repeat(20)

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_process(watch)
    simulator.add_testbench(bench)
    simulator.run()
    assert [payload for _, payload in sums] == [TokenSums.model(token.ravel().tolist()) for token in tokens]
    assert [cycle for cycle, _ in sums] == [end + TokenSums.latency(lanes) for end in ends]
