"""Passes that wait for weights: the model against the register and the loader of the hardware."""

from dataclasses import replace

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.sim import Simulator

from hdl.array.geometry import ArrayGeometry
from hdl.array.loader import TableLoader
from hdl.machine.gearbox import WeightsJoin
from hdl.machine.jobs import Beats
from sim.compiler.builder import Builder
from sim.compiler.passes import array_command
from sim.cycles.delays import Delays
from sim.cycles.memory import memory_rate
from sim.cycles.timeline import Timeline
from sim.machine.ports import Port
from sim.machine.presets import PRESETS
from sim.machine.settings import Phase
from sim.machine.sweep import sweep_program

BEAT = 4


def taken_at(geometry: ArrayGeometry, payloads: int) -> list[int]:
    """Cycles in which the loader takes weights whose beats are always there, LOAD upon LOAD."""
    m = Module()
    m.submodules.join = join = WeightsJoin(Beats(BEAT, 1024), rows=geometry.loader_rows, columns=geometry.columns)
    m.submodules.loader = loader = TableLoader(geometry)
    m.d.comb += [
        loader.i_weights.valid.eq(join.o.valid),
        loader.i_weights.payload.as_value().eq(join.o.payload),
        join.o.ready.eq(loader.i_weights.ready),
    ]
    found: list[int] = []

    async def testbench(ctx):
        for step, word in enumerate(sweep_program(tuple(range(-8, 8)))):
            ctx.set(loader.i_codebook.payload, {"address": step, "step": word})
            ctx.set(loader.i_codebook.valid, 1)
            await ctx.tick()
        ctx.set(loader.i_codebook.valid, 0)
        ctx.set(loader.i.valid, 1)
        ctx.set(join.i.valid, 1)
        cycle = 0
        while len(found) < payloads:
            if ctx.get(join.o.valid & join.o.ready):
                found.append(cycle)
            cycle += 1
            await ctx.tick()

    simulator = Simulator(m)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()
    return found


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_weights_leave_their_register_as_the_model_says(groups):
    geometry = ArrayGeometry(rows=32, columns=4 * groups, loader_rows=16, column_group=4, codebooks=1, token_depth=16)
    beats = geometry.loader_rows * geometry.columns // 2 // BEAT
    taken = Delays(replace(PRESETS["full"], columns=geometry.columns)).weights_taken
    # Where beats come faster than a sweep goes, the sweep's 17 steps are what is waited for.
    period = max(beats + taken, 17)
    assert np.diff(taken_at(geometry, 6))[::2].tolist() == [period] * 3


@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("tokens", [10, 25])
def test_short_passes_last_as_long_as_their_weights_take(tokens, biases):
    """Also where every pass has a bias: it and the weights behind it do not wait for the scale before them."""
    preset = PRESETS["full"]
    near, builder = preset.memory_bytes, Builder(preset)
    builder.commands.clear()
    builder.send(Port.CODE_BLOCK, words=tokens)
    builder.read_block(Port.CODES, 0, tokens * preset.rows // 2 // preset.beat_bytes)
    for number in range(8):
        array_command(builder, Phase.DENSE, queries=tokens, first=biases or number == 0, last=0, pitch=1)
        builder.read_block(Port.SCALE, near, 1)
        if biases or number == 0:
            builder.read_block(Port.BIAS, near, 1)
        builder.read_block(Port.WEIGHTS, near, preset.rows // preset.loader_rows)
    timeline = Timeline(preset, memory_rate("onchip", preset), np.zeros(1 << 16, np.uint8))
    last = before = -1.0
    for command in builder.commands:
        timeline.do(command)
        if command.port == Port.WEIGHTS:
            last, before = timeline.array.run_start, last
    payload = preset.loader_rows * preset.columns // 2 // preset.beat_bytes
    period = preset.rows // preset.loader_rows * (payload + Delays(preset).weights_taken)
    assert timeline.array.passes == 8
    assert period == 84
    # The beats of a bias take three cycles more than the loader needs to take weights.
    assert last - before == period + (3 if biases else 0)
