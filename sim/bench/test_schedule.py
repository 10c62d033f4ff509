"""The tiling of a layer into commands, executed by a few lines of Python and compared with the contract."""

import numpy as np
import pytest
from numpy.typing import NDArray

from hdl.array.geometry import ArrayGeometry
from sim.bench.cases import random_byte_layer, random_bytes, random_codes, random_layer
from sim.bench.schedule import LOAD, Phase, assemble, schedule
from sim.contract.linear import finish, linear


def execute(phase: Phase, memory: NDArray[np.int64]) -> NDArray[np.int16]:
    """What an array does with a phase. memory: int64 (token_depth, columns), token memory, changed in place."""
    weights, scale, bias, codes = iter(phase.weights), iter(phase.scale), iter(phase.bias), iter(phase.codes)
    loaded_bias = np.zeros(memory.shape[1], np.int64)
    results = [np.zeros((0, memory.shape[1]), np.int16)]
    for command in phase.commands:
        if command.opcode == LOAD:
            levels = phase.codebooks[command.codebook].astype(np.int64)
            weight, factor = next(weights).astype(np.int64), next(scale).astype(np.int64)
            if command.load_bias:
                loaded_bias = next(bias).astype(np.int64) << 2
        else:
            sums = levels[next(codes)] @ weight * factor
            total = sums + (loaded_bias if command.first else memory[: command.tokens])
            memory[: command.tokens] = total
            if command.last:
                results.append(finish(total))
    assert not [*weights, *scale, *bias, *codes]
    return np.concatenate(results)


GEOMETRIES = [
    ArrayGeometry(rows=16, columns=4, loader_rows=8, token_depth=16),
    ArrayGeometry(rows=64, columns=8, loader_rows=16, token_depth=64),
    ArrayGeometry(rows=32, columns=12, loader_rows=32, token_depth=16, codebooks=2),
]


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=["16x4", "64x8", "few-codebooks"])
@pytest.mark.parametrize(("tokens", "inputs", "outputs"), [(1, 1, 1), (20, 160, 12), (33, 257, 13), (64, 64, 8)])
def test_executing_the_commands_gives_the_bits_of_the_contract(
    geometry: ArrayGeometry, tokens: int, inputs: int, outputs: int
) -> None:
    generator = np.random.default_rng(inputs)
    layer = random_layer(generator, inputs, outputs)
    codes = random_codes(generator, layer, tokens)
    phases = schedule(codes, layer, geometry)
    memory = np.zeros((geometry.token_depth, geometry.columns), np.int64)
    results = [execute(phase, memory) for phase in phases]
    assert [len(result) for result in results] == [phase.output_transfers for phase in phases]
    assert np.array_equal(assemble(phases, results, (tokens, outputs)), linear(codes, layer))
    assert all(len(phase.codebooks) <= geometry.codebooks for phase in phases)


@pytest.mark.parametrize("weight_planes", [1, 2], ids=["2-passes", "4-passes"])
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=["16x4", "64x8", "few-codebooks"])
def test_layers_of_several_passes_give_the_bits_of_the_layer(geometry: ArrayGeometry, weight_planes: int) -> None:
    generator = np.random.default_rng(weight_planes)
    layer = random_byte_layer(generator, 150, 13, weight_planes=weight_planes)
    codes = random_bytes(generator, layer, 9)
    phases = schedule(layer.array_codes(codes), layer.array_form, geometry)
    memory = np.zeros((geometry.token_depth, geometry.columns), np.int64)
    expected = layer.wide(codes)
    assert layer.array_form.passes == 2 * weight_planes
    assert np.array_equal(assemble(phases, [execute(phase, memory) for phase in phases], (9, 13)), expected)
    assert len(np.unique(expected)) > 30


def test_passes_without_an_input_are_left_out() -> None:
    layer = random_layer(np.random.default_rng(0), 160, 8)
    codes = random_codes(np.random.default_rng(0), layer, 5)
    (phase,) = schedule(codes, layer, ArrayGeometry(rows=32, columns=8, loader_rows=32))
    assert len(phase.weights) == 5  # 64 + 64 + 32 inputs, not three times two passes
    assert [command.codebook for command in phase.commands if command.opcode == LOAD] == [0, 0, 1, 1, 2]


def test_a_shared_codebook_is_written_once() -> None:
    layer = random_layer(np.random.default_rng(0), 160, 8, codebooks=1)
    codes = random_codes(np.random.default_rng(0), layer, 5)
    (phase,) = schedule(codes, layer, ArrayGeometry(rows=64, columns=4, loader_rows=16))
    assert len(phase.codebooks) == 1
