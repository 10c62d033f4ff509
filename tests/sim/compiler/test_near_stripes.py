"""Stripes of near memory: what they keep out of external memory, and when they are chosen."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sim.compiler.compile import Layer, Program, compile_encoder
from sim.compiler.run import run_encoder
from sim.compiler.traffic import moved, near_share, traffic
from sim.cycles.model import rolled_out
from sim.machine.commands import COMMAND_BYTES, Command, Opcode
from sim.machine.ports import Port
from sim.machine.presets import PRESETS

SMALL = replace(PRESETS["small"], near_bytes=3 << 14)
"""Near memory that holds a few rows of a stripe."""

MLP = ("mlp.norm", "mlp.fc1", "mlp.act", "mlp.fc2", "mlp.add")


@pytest.fixture(scope="module")
def program(toy_tiny_vit: Any) -> Program:
    return compile_encoder(toy_tiny_vit.parameters, toy_tiny_vit.architecture, SMALL)


def step(program: Program, *ends: str) -> Layer:
    """The first step whose operations end so."""
    return next(
        layer
        for layer in program.layers
        if len(layer.names) == len(ends)
        and all(name.endswith(end) for name, end in zip(layer.names, ends, strict=True))
    )


def commands(program: Program, layer: Layer) -> list[Command]:
    first, stop = (address // COMMAND_BYTES for address in layer.commands)
    return program.commands[first:stop]


def tensor_bytes(layer: Layer) -> int:
    return int(np.prod(layer.result.shape[:-1])) * layer.result.pitch


@pytest.mark.parametrize("ends", [MLP, ("attn.proj", "attn.add")])
def test_external_memory_holds_but_the_sum(program: Program, ends: tuple[str, ...]) -> None:
    layer = step(program, *ends)
    moving = traffic(program.commands, layer.commands, SMALL, program.writable)
    assert moving.beats_written * SMALL.beat_bytes == tensor_bytes(layer)
    for one in commands(program, layer):
        if one.opcode == Opcode.WRITE and one.address < SMALL.memory_bytes:
            assert layer.result.address <= one.address < layer.result.address + tensor_bytes(layer)


def test_the_input_of_an_mlp_and_constants_are_read_once(program: Program) -> None:
    """Of external memory; from then on both are near, or in a unit."""
    layer = step(program, *MLP)
    first, stop = (address // COMMAND_BYTES for address in layer.commands)
    reads = [
        one
        for one, _ in rolled_out(program.commands, first, stop)
        if one.opcode == Opcode.READ and one.address < SMALL.memory_bytes
    ]
    values = [one for one in reads if one.address >= program.writable]
    assert {one.port for one in values} == {Port.COPY}
    assert len(values) > 2
    assert sum(one.beats for one in values) * SMALL.beat_bytes == tensor_bytes(layer)
    tables = [(one.port, one.address) for one in reads if one.address < program.writable and one.port != Port.COPY]
    assert len(set(tables)) == len(tables) > 0


def test_equal_stripes_are_stored_once(program: Program) -> None:
    layer = step(program, *MLP)
    moving = traffic(program.commands, layer.commands, SMALL, program.writable)
    assert moving.stored_commands < 0.6 * moving.run_commands


def test_a_sum_overwrites_what_nobody_reads_any_more(program: Program) -> None:
    places = {layer.names[-1]: layer.result.address for layer in program.layers}
    before = next(name for name in places if name.endswith("local_conv.c"))
    assert places[step(program, *MLP).names[-1]] == places[before]


def test_without_room_results_go_to_external_memory(toy_tiny_vit: Any) -> None:
    preset = replace(SMALL, near_bytes=1 << 12)
    program = compile_encoder(toy_tiny_vit.parameters, toy_tiny_vit.architecture, preset)
    assert not any(layer.names[-1].endswith("mlp.add") and len(layer.names) > 1 for layer in program.layers)
    assert np.array_equal(run_encoder(program, toy_tiny_vit.picture).values, toy_tiny_vit.embedding)


def test_operands_of_an_addition_count_where_they_are() -> None:
    near, distance = SMALL.memory_bytes + 64, 1 << 20
    both = Command(Opcode.READ, Port.RESIDUAL_VALUES, near - distance, (1, 2, 6, 1), (distance, 16, 0))
    turned = replace(both, address=near, strides=(-distance, 16, 0))
    for one in (both, turned):
        assert near_share(one, SMALL) == 0.5
        assert (moved(one, SMALL, 0).beats_read, moved(one, SMALL, 0).beats_near_read) == (6, 6)
    assert near_share(replace(both, strides=(64, 16, 0)), SMALL) == 0.0
    assert near_share(replace(turned, strides=(64, 16, 0)), SMALL) == 1.0


def test_several_stripes_are_golden(program: Program, toy_tiny_vit: Any) -> None:
    layer = step(program, *MLP)
    assert any(one.opcode == Opcode.REPEAT for one in commands(program, layer))
    results: dict[str, Any] = {}
    run_encoder(program, toy_tiny_vit.picture, lambda one, result: results.update({one.names[-1]: result}))
    for name, result in results.items():
        assert np.array_equal(result.reshape(-1), toy_tiny_vit.results[name].reshape(-1)), name
