# amaranth: UnusedElaboratable=no

"""Group rescale against its model: rounding ties, saturation, wrap-free accumulation, scales taken in time."""

from typing import Any

import numpy as np
import pytest
from amaranth.sim import Simulator
from numpy.typing import NDArray

from hdl.array.geometry import ArrayGeometry
from hdl.rescale import BIAS_SHIFT, REVISIT_DISTANCE, GroupRescale
from sim.contract.constants import SCALE_FRACTION_BITS
from sim.contract.linear import finish

GEOMETRY = ArrayGeometry(rows=64, columns=4, loader_rows=16, token_depth=32, column_group=2)


def drive(
    sums: NDArray[np.int64], control: list[dict[str, int]], scale: NDArray[np.int64], bias: NDArray[np.int64]
) -> list[list[int]]:
    """Wide results of group-skewed sums (cycles, columns); scale and bias (takes, columns) in order of their takes."""
    dut = GroupRescale(GEOMETRY)
    results: list[list[int]] = []
    history: list[list[int]] = []
    marks: list[int] = []
    groups = GEOMETRY.column_groups

    async def operands(ctx: Any, port: Any, values: NDArray[np.int64]) -> None:
        for row in values.tolist():
            ctx.set(port.payload, row)
            ctx.set(port.valid, 1)
            await ctx.tick().until(port.ready)
        ctx.set(port.valid, 0)

    async def scales(ctx: Any) -> None:
        await operands(ctx, dut.i_scale, scale)

    async def biases(ctx: Any) -> None:
        await operands(ctx, dut.i_bias, bias)

    async def bench(ctx: Any) -> None:
        for cycle in range(len(sums) + GroupRescale.LATENCY + groups):
            ctx.set(dut.control, control[cycle] if cycle < len(control) else {})
            skewed = [
                int(sums[cycle - column // GEOMETRY.column_group, column])
                if 0 <= cycle - column // GEOMETRY.column_group < len(sums)
                else -77
                for column in range(GEOMETRY.columns)
            ]
            ctx.set(dut.sums, skewed)
            marks.append(ctx.get(dut.o_valid))
            history.append(list(ctx.get(dut.wide)))
            await ctx.tick()
        for cycle, mark in enumerate(marks):
            if mark:
                results.append(
                    [history[cycle + column // GEOMETRY.column_group][column] for column in range(GEOMETRY.columns)]
                )

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(scales, background=True)
    simulator.add_testbench(biases, background=True)
    simulator.add_testbench(bench)
    simulator.run()
    return results


def single_tokens(accumulators: NDArray[np.int64]) -> NDArray[np.int64]:
    """Wide results of given accumulators (n, columns), each made of a bias, a scale and a sum of its own."""
    count = len(accumulators)
    bias = accumulators >> BIAS_SHIFT
    rest = accumulators - (bias << BIAS_SHIFT)  # what a sum of 1 times this scale adds
    spacing = 16
    sums = np.zeros((count * spacing, GEOMETRY.columns), np.int64)
    control: list[dict[str, int]] = [{} for _ in range(count * spacing)]
    for index in range(count):
        control[index * spacing] = {"take_scale": 1, "take_bias": 1}
        control[index * spacing + 1] = {"valid": 1, "first": 1, "last": 1, "token": index % 32}
        sums[index * spacing + 1] = 1
    return np.array(drive(sums, control, rest, bias))


def test_rounding_and_saturation_at_every_kind_of_edge() -> None:
    half = 1 << (SCALE_FRACTION_BITS - 1)
    floors = [0, 1, -1, -2, 2, 7, -8, 32766, 32767, -32768, -32767, 32768, -32769, 40000, -40000, 1 << 18, -(1 << 18)]
    edges = [2 * half * floor + rest for floor in floors for rest in (0, 1, half - 1, half, half + 1, 2 * half - 1)]
    limits = [(1 << 33) - 1, -(1 << 33), (1 << 33) - half, 0, 0, 0]  # what a bias alone reaches
    random = np.random.default_rng(9).integers(-(1 << 32), 1 << 32, 64).tolist()
    # Twice, an odd number of places apart, so that every column has every kind.
    values = np.array([*edges, 0, *edges, *limits, *random])
    values = values[: len(values) // 4 * 4].reshape(-1, 4)
    assert np.array_equal(single_tokens(values), finish(values))


@pytest.mark.parametrize("seed", range(3))
def test_tiles_accumulate_with_their_own_scales(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tokens, tiles = REVISIT_DISTANCE + seed, 5
    # Results fill the 16 bits but for the last seed, whose scales are of any size: what saturates hides faults.
    scale = rng.integers(0, 1 << (16 if seed == 2 else 11), (tiles, GEOMETRY.columns))
    bias = rng.integers(-(1 << 21), 1 << 21, (1, GEOMETRY.columns))
    sums = rng.integers(-7680, 7681, (tiles, tokens, GEOMETRY.columns))
    flow: list[NDArray[np.int64]] = []
    control: list[dict[str, int]] = []
    accumulators: NDArray[np.int64] | None = None
    for tile in range(tiles):
        # A take needs the previous transfer to be over: wait as the sequencer does.
        idle = 0 if tile == 0 else 12
        control += [{} for _ in range(idle)] + [{"take_scale": 1, "take_bias": int(tile == 0)}]
        flow += [rng.integers(-7680, 7681, GEOMETRY.columns) for _ in range(idle + 1)]
        for token in range(tokens):
            control.append({"valid": 1, "first": int(tile == 0), "last": int(tile == tiles - 1), "token": token})
            flow.append(sums[tile, token])
        accumulators, wide = GroupRescale.model(accumulators, sums[tile], scale[tile], bias[0])
    if seed < 2:
        assert np.abs(wide.astype(int)).max() < 32767
    assert np.array_equal(np.array(drive(np.array(flow), control, scale, bias)), wide)


def test_the_same_token_may_come_back_after_the_revisit_distance() -> None:
    turns = 6
    sums = np.random.default_rng(2).integers(-80, 81, (turns, GEOMETRY.columns))
    flow = np.zeros((1 + turns * REVISIT_DISTANCE, GEOMETRY.columns), np.int64)
    control: list[dict[str, int]] = [{} for _ in range(len(flow))]
    control[0] = {"take_scale": 1, "take_bias": 1}
    for turn in range(turns):
        place = 1 + turn * REVISIT_DISTANCE
        control[place] = {"valid": 1, "first": int(turn == 0), "last": 1, "token": 5}
        flow[place] = sums[turn]
    scale, bias = np.full((1, 4), 60000), np.full((1, 4), -1234)
    accumulators: NDArray[np.int64] | None = None
    expected = []
    for turn in range(turns):
        accumulators, wide = GroupRescale.model(accumulators, sums[turn : turn + 1], scale[0], bias[0])
        expected.append(wide[0])
    assert np.abs(np.array(expected, int)).max() < 32767
    assert np.array_equal(np.array(drive(flow, control, scale, bias)), np.array(expected))
