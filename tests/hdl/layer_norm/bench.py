"""Plays layers into a simulated LayerNormUnit and compares with the model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from amaranth.sim import Simulator
from numpy.typing import NDArray

from hdl.layer_norm.layer_norm import LayerNormUnit
from hdl.layer_norm.operands import command_of, parameters_of, transfers_of
from sim.contract.layer_norm import LayerNorm
from tests.hdl.streams import PATIENCE, receive, send


@dataclass
class Job:
    """One command: a layer, its tokens (tokens, C) and the order of the results' channels (None: as they come)."""

    layer: LayerNorm
    tokens: NDArray[np.int16]
    permutation: NDArray[np.int64] | None = None


@dataclass
class Run:
    """One job: results (tokens, C); surplus lanes' values; cycles of the first transfers and of the last."""

    results: NDArray[np.int64]
    surplus: NDArray[np.int64]
    latency: int
    cycles: int


def layer_of(
    rng: np.random.Generator,
    channels: int,
    *,
    epsilon: int | None = None,
    shift: int = 15,
    gain_limit: int = 1 << 15,
    bias_limit: int = 1 << 29,
) -> LayerNorm:
    """A layer with random gains and biases."""
    return LayerNorm(
        name="norm",
        input_exponent=-6,
        wide_exponent=-10,
        epsilon=int(rng.integers(1, 1 << 40)) if epsilon is None else epsilon,
        gain=rng.integers(-gain_limit, gain_limit, channels).astype(np.int16),
        bias=rng.integers(-bias_limit, bias_limit, channels).astype(np.int32),
        shift=shift,
    )


def play(
    dut: LayerNormUnit,
    jobs: Sequence[Job],
    *,
    seed: int = 0,
    gaps: Mapping[str, float] | None = None,
    stall: float = 0.0,
    hold: int = 0,
) -> list[Run]:
    """Simulate the jobs one after another; `gaps` delays single streams, `stall` and `hold` the output."""
    geometry = dut.geometry
    gap = dict(gaps or {})
    entered: list[int] = []
    left: list[int] = []
    taken: list[list[int]] = []
    commands: list[dict[str, int]] = []
    simulator = Simulator(dut)
    simulator.add_clock(1e-6)

    async def watch(ctx: Any) -> None:
        cycle = 0
        watched = (dut.i.valid & dut.i.ready, dut.o.valid & dut.o.ready)
        async for _, _, came, went in ctx.tick().sample(*watched):
            cycle += 1
            if came:
                entered.append(cycle)
            if went:
                left.append(cycle)

    async def configure(ctx: Any) -> None:
        rng = np.random.default_rng([seed, 1])
        for job in jobs:
            words = parameters_of(geometry, job.layer, job.permutation)
            await send(ctx, dut.i_parameters, words, rng=rng, gap=gap.get("i_parameters", 0.0))
            command = command_of(geometry, job.layer, len(job.tokens))
            await send(ctx, dut.i_command, [command], rng=rng, gap=gap.get("i_command", 0.0))
            commands.append(command)

    async def feed(ctx: Any) -> None:
        rng = np.random.default_rng([seed, 2])
        for job in jobs:
            await send(ctx, dut.i, transfers_of(geometry, job.tokens).tolist(), rng=rng, gap=gap.get("i", 0.0))

    async def collect(ctx: Any) -> None:
        rng = np.random.default_rng([seed, 3])
        for number, job in enumerate(jobs):
            waited = 0
            while len(commands) <= number:
                await ctx.tick()
                waited += 1
                assert waited < PATIENCE, f"no transfer in {PATIENCE} cycles: command {number} is not taken"
            count = len(job.tokens) * geometry.groups(job.tokens.shape[1])
            taken.extend(list(row) for row in await receive(ctx, dut.o, count, rng=rng, stall=stall, hold=hold))
        await ctx.tick().repeat(2)
        for _ in range(100):
            assert not ctx.get(dut.o.valid), "a result too many"
            assert ctx.get(dut.o_idle), "all results are taken, and the unit is not idle"
            await ctx.tick()

    simulator.add_process(watch)
    simulator.add_testbench(configure, background=True)
    simulator.add_testbench(feed, background=True)
    simulator.add_testbench(collect)
    simulator.run()

    runs = []
    start = 0
    for job in jobs:
        count, channels = job.tokens.shape
        groups = geometry.groups(channels)
        end = start + count * groups
        rows = np.array(taken[start:end], np.int64).reshape(count, groups * geometry.lanes)
        latency, cycles = (left[start] - entered[start], left[end - 1] - entered[start] + 1) if count else (0, 0)
        runs.append(Run(rows[:, :channels], rows[:, channels:], latency, cycles))
        start = end
    return runs


def check(dut: LayerNormUnit, jobs: Sequence[Job], runs: Sequence[Run]) -> None:
    """Every bit of every result is the model's, and surplus lanes are 0."""
    for job, run in zip(jobs, runs, strict=True):
        expected = dut.model(job.layer, job.tokens, job.permutation)
        assert np.array_equal(run.results, expected), f"{(run.results != expected).sum()} results differ"
        assert not run.surplus.any()
