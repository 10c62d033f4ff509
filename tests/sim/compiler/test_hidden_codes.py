"""An MLP of which near memory holds the codes of hidden values: exact, and nothing but its sum in external memory."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sim.compiler.compile import Layer, Program, compile_encoder
from sim.compiler.run import run_encoder
from sim.compiler.traffic import moved, traffic
from sim.cycles.model import rolled_out
from sim.machine.commands import COMMAND_BYTES, Opcode
from sim.machine.ports import Port
from sim.machine.presets import PRESETS

SMALL = replace(PRESETS["small"], near_bytes=5 << 12)
"""Near memory that holds no weights beside a stripe, but codes of 78 tokens."""

STRIPES = 2
"""Of the first MLP, whose map is 12 x 12."""


@pytest.fixture(scope="module")
def program(toy_tiny_vit: Any) -> Program:
    return compile_encoder(toy_tiny_vit.parameters, toy_tiny_vit.architecture, SMALL)


@pytest.fixture(scope="module")
def mlp(program: Program) -> Layer:
    return next(layer for layer in program.layers if layer.names[-1].endswith("mlp.add"))


def input_bytes(layer: Layer) -> int:
    return int(np.prod(layer.result.shape)) * 2


def test_hidden_values_are_never_in_external_memory(program: Program, mlp: Layer) -> None:
    moving = traffic(program.commands, mlp.commands, SMALL, program.writable)
    assert len(mlp.names) == 5
    assert moving.beats_written * SMALL.beat_bytes == input_bytes(mlp)
    assert (moving.beats_read - moving.beats_constants) * SMALL.beat_bytes == 2 * input_bytes(mlp)


def test_weights_pass_once_per_stripe(program: Program, mlp: Layer, toy_tiny_vit: Any) -> None:
    """Those of the second layer too, which both planes of its codes take."""
    first, stop = (address // COMMAND_BYTES for address in mlp.commands)
    weights = sum(
        moved(one, SMALL, program.writable).beats_constants
        for one, _ in rolled_out(program.commands, first, stop)
        if one.opcode == Opcode.READ and one.port in (Port.WEIGHTS, Port.COPY)
    )
    layers = [toy_tiny_vit.parameters.operations[name] for name in mlp.names if ".fc" in name]
    nibbles = sum(layer.outputs * layer.encoder.channels * layer.weight_planes for layer in layers)
    assert [layer.level_planes for layer in layers] == [1, 2]
    assert weights * SMALL.beat_bytes == STRIPES * nibbles // 2


def test_several_stripes_are_golden(program: Program, toy_tiny_vit: Any) -> None:
    results: dict[str, Any] = {}
    run_encoder(program, toy_tiny_vit.picture, lambda one, result: results.update({one.names[-1]: result}))
    for name, result in results.items():
        assert np.array_equal(result.reshape(-1), toy_tiny_vit.results[name].reshape(-1)), name
