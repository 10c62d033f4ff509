"""Attention a few windows at a time: their codes stay near, and stripes are equal wherever a window lies on the map."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from sim.compiler.compile import Layer, Program, compile_encoder
from sim.compiler.run import run_encoder
from sim.compiler.traffic import traffic
from sim.cycles.model import rolled_out
from sim.machine.commands import COMMAND_BYTES, Opcode
from sim.machine.ports import Port
from sim.machine.presets import PRESETS

SMALL = PRESETS["small"]


@pytest.fixture(scope="module")
def program(toy_tiny_vit: Any) -> Program:
    """A window a stripe: nine of them, one behind the other, external memory being dear."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sim.compiler.near_windows.WINDOWS", (1,))
        patch.setattr("sim.compiler.estimate.EXTERNAL_CYCLES", 1000)
        return compile_encoder(toy_tiny_vit.parameters, toy_tiny_vit.architecture, SMALL)


def step(program: Program) -> Layer:
    """Norm, q, k, v and attention of windows of 5 x 5 pixels on a map of 12 x 12: two of three are padded."""
    ends = ("layers.1.blocks.0.attn.norm", "attn.qkv", "attn.attend")
    return next(
        layer
        for layer in program.layers
        if len(layer.names) == 3 and all(name.endswith(end) for name, end in zip(layer.names, ends, strict=True))
    )


def test_codes_and_wide_values_stay_near(program: Program) -> None:
    """Of external memory a step writes the windows' pixels, one behind the other, and its result."""
    layer = step(program)
    first, stop = (address // COMMAND_BYTES for address in layer.commands)
    writes = {
        one.port
        for one in program.commands[first:stop]
        if one.opcode == Opcode.WRITE and one.address < SMALL.memory_bytes
    }
    assert writes == {Port.COPIED, Port.RESULTS}
    moving = traffic(program.commands, layer.commands, SMALL, program.writable)
    tokens, channels = int(np.prod(layer.result.shape[:-1])), layer.result.shape[-1]
    assert moving.beats_written == 2 * tokens * channels // SMALL.lanes


def test_stripes_are_equal_wherever_a_window_lies(program: Program) -> None:
    """All but the first, which brings the tables: the same commands at other addresses, and so the program is short."""
    layer = step(program)
    first, stop = (address // COMMAND_BYTES for address in layer.commands)
    done = [one for one, _ in rolled_out(program.commands, first, stop) if one.opcode != Opcode.REPEAT]
    begins = [at for at, one in enumerate(done) if one.opcode == Opcode.SEND and one.port == Port.NORM_COMMAND]
    assert len(begins) == 9
    stripes = [done[at:end] for at, end in pairwise(begins[1:])]
    same = [[(one.opcode, one.port, one.counts, one.payload) for one in stripe] for stripe in stripes]
    assert all(one == same[0] for one in same)
    moving = traffic(program.commands, layer.commands, SMALL, program.writable)
    assert 3 * moving.stored_commands < moving.run_commands


def test_windows_are_golden(program: Program, toy_tiny_vit: Any) -> None:
    assert np.array_equal(run_encoder(program, toy_tiny_vit.picture).values, toy_tiny_vit.embedding)
