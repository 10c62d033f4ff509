# amaranth: UnusedElaboratable=no

"""The array: sums of every column group, each one cycle behind its neighbour."""

from typing import Any

import numpy as np
from amaranth.sim import Simulator

from hdl.array.array import Array
from hdl.array.geometry import ArrayGeometry
from hdl.array.loader import sweep_program
from tests.hdl.streams import send

GEOMETRY = ArrayGeometry(rows=16, columns=8, loader_rows=16, codebooks=1, column_group=2)


def test_sums_of_a_loaded_tile() -> None:
    geometry = GEOMETRY
    dut = Array(geometry)
    rng = np.random.default_rng(4)
    levels = rng.integers(-15, 16, 16)
    weights = rng.integers(-8, 8, (geometry.rows, geometry.columns))
    codes = rng.integers(0, 16, (30, geometry.rows))
    expected = Array.model(codes, weights, levels)
    seen = np.zeros((len(codes) + Array.latency(geometry) + geometry.column_groups, geometry.columns), np.int64)

    async def bench(ctx: Any) -> None:
        words = [{"address": number, "step": step} for number, step in enumerate(sweep_program(levels))]
        await send(ctx, dut.i_codebook, words, rng=rng)
        ctx.set(dut.i_weights.payload, weights.tolist())
        ctx.set(dut.i_weights.valid, 1)
        await send(ctx, dut.i_load, [0], rng=rng)
        await ctx.tick().until(dut.i_weights.ready)
        ctx.set(dut.i_weights.valid, 0)
        while ctx.get(dut.o_busy):
            await ctx.tick()
        await ctx.tick().repeat(2)  # the 3rd cycle without o_busy is the first for new codes
        for cycle in range(len(seen)):
            ctx.set(dut.codes, codes[min(cycle, len(codes) - 1)].tolist())
            seen[cycle] = list(ctx.get(dut.sums))
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    for column in range(geometry.columns):
        start = Array.latency(geometry) + column // geometry.column_group
        assert np.array_equal(seen[start : start + len(codes), column], expected[:, column])
