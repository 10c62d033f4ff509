# amaranth: UnusedElaboratable=no

"""The loader against its model: tables collected from its writes, weights on time or late."""

from typing import Any

import numpy as np
import pytest
from amaranth.sim import Simulator
from numpy.typing import NDArray

from hdl.array.geometry import ArrayGeometry
from hdl.array.loader import TableLoader, sweep_program, sweep_steps
from hdl.array.sweep import EARLY, STEPS_PER_CODEBOOK
from sim.contract.codebook import affine_codebook
from tests.hdl.streams import send

GEOMETRY = ArrayGeometry(rows=16, columns=4, loader_rows=4, codebooks=3, column_group=2)
CODEBOOKS = [affine_codebook(), np.array([3] * 15 + [-15]), np.random.default_rng(8).integers(-15, 16, 16)]


@pytest.mark.parametrize("gap", [0.0, 0.9])
def test_tables_after_loads_of_any_codebook(gap: float) -> None:
    geometry = GEOMETRY
    dut = TableLoader(geometry)
    rng = np.random.default_rng(1)
    tiles = [rng.integers(-8, 8, (geometry.rows, geometry.columns)) for _ in CODEBOOKS]
    tables = np.full((geometry.rows, geometry.columns, 16), 99)
    busy: list[int] = []

    def store(writes: Any) -> None:
        for group, write in enumerate(writes):
            assert write.enable.bit_count() <= 1
            for number in range(geometry.row_groups):
                if write.enable >> number & 1:
                    rows = slice(number * geometry.loader_rows, (number + 1) * geometry.loader_rows)
                    columns = slice(group * geometry.column_group, (group + 1) * geometry.column_group)
                    tables[rows, columns, write.code] = [list(row) for row in write.products]

    async def watch(ctx: Any) -> None:
        async for _, _, writes in ctx.tick().sample(dut.writes):
            store(writes)

    async def feed(ctx: Any) -> None:
        transfers = [
            tile[row : row + geometry.loader_rows].tolist()
            for tile in tiles
            for row in range(0, geometry.rows, geometry.loader_rows)
        ]
        await send(ctx, dut.i_weights, transfers, rng=np.random.default_rng(2), gap=gap)

    async def bench(ctx: Any) -> None:
        words = [
            {"address": index * STEPS_PER_CODEBOOK + number, "step": step}
            for index, levels in enumerate(CODEBOOKS)
            for number, step in enumerate(sweep_program(levels))
        ]
        await send(ctx, dut.i_codebook, words, rng=rng)
        for index, tile in enumerate(tiles):
            tables[:] = 99
            await send(ctx, dut.i, [index], rng=rng)
            cycles = 1
            while ctx.get(dut.o_busy):
                await ctx.tick()
                cycles += 1
            busy.append(cycles)
            await ctx.tick().repeat(EARLY + 4 + geometry.column_groups)
            expected: NDArray[np.int64] = np.array(dut.model(CODEBOOKS[index], tile.tolist()))
            assert np.array_equal(tables, expected)
            assert np.array_equal(expected, tile[:, :, None] * np.asarray(CODEBOOKS[index], np.int64))

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(feed, background=True)
    simulator.add_process(watch)
    simulator.add_testbench(bench)
    simulator.run()
    formula = [geometry.row_groups * sweep_steps(levels) + 2 - EARLY for levels in CODEBOOKS]
    if gap == 0.0:
        assert busy == formula
    else:
        assert sum(busy) > sum(formula)


def test_a_load_may_follow_in_the_cycle_after_a_sweep() -> None:
    """Both loads write all their products, though those of the first are still under way when the second starts."""
    geometry = GEOMETRY
    dut = TableLoader(geometry)
    rng = np.random.default_rng(3)
    tiles = [rng.integers(-8, 8, (geometry.rows, geometry.columns)) for _ in range(2)]
    writes_of_a_load = geometry.row_groups * 16
    tables = np.full((2, geometry.rows, geometry.columns, 16), 99)
    counts = [0] * geometry.column_groups

    async def watch(ctx: Any) -> None:
        async for _, _, writes in ctx.tick().sample(dut.writes):
            for group, write in enumerate(writes):
                if write.enable:
                    first = (write.enable.bit_length() - 1) * geometry.loader_rows
                    start = group * geometry.column_group
                    place = np.s_[first : first + geometry.loader_rows, start : start + geometry.column_group]
                    tables[counts[group] // writes_of_a_load][*place, write.code] = [
                        list(row) for row in write.products
                    ]
                    counts[group] += 1

    async def feed(ctx: Any) -> None:
        transfers = [
            tile[row : row + geometry.loader_rows].tolist()
            for tile in tiles
            for row in range(0, geometry.rows, geometry.loader_rows)
        ]
        await send(ctx, dut.i_weights, transfers, rng=rng)

    async def bench(ctx: Any) -> None:
        words = [
            {"address": index * STEPS_PER_CODEBOOK + number, "step": step}
            for index in (0, 1)
            for number, step in enumerate(sweep_program(CODEBOOKS[index]))
        ]
        await send(ctx, dut.i_codebook, words, rng=rng)
        await send(ctx, dut.i, [0, 1], rng=rng)
        await ctx.tick().repeat(geometry.row_groups * sweep_steps(CODEBOOKS[1]) + 6 + geometry.column_groups)
        assert not ctx.get(dut.o_busy)

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(feed, background=True)
    simulator.add_process(watch)
    simulator.add_testbench(bench)
    simulator.run()
    assert counts == [2 * writes_of_a_load] * geometry.column_groups
    for number, tile in enumerate(tiles):
        assert np.array_equal(tables[number], tile[:, :, None] * np.asarray(CODEBOOKS[number], np.int64))


def test_an_unwritten_codebook_still_takes_one_transfer_per_row_group() -> None:
    dut = TableLoader(GEOMETRY)
    taken: list[int] = []

    async def feed(ctx: Any) -> None:
        zeros = [[0] * GEOMETRY.columns] * GEOMETRY.loader_rows
        for number in range(GEOMETRY.row_groups):
            await send(ctx, dut.i_weights, [zeros], rng=np.random.default_rng(0))
            taken.append(number)
            await ctx.tick()  # the next transfer is late by a cycle, so that a spurious ready finds nothing to take

    async def bench(ctx: Any) -> None:
        ready = 0
        await send(ctx, dut.i, [2], rng=np.random.default_rng(0))
        for _ in range(200):
            ready += ctx.get(dut.i_weights.ready)
            await ctx.tick()
        assert ready == GEOMETRY.row_groups == len(taken)
        assert not ctx.get(dut.o_busy)

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(feed, background=True)
    simulator.add_testbench(bench)
    simulator.run()
