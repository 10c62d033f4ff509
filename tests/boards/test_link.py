"""The host client against the real link and the real array in simulation, bit for bit the contract."""

from collections.abc import Callable
from typing import Any

import numpy as np

from boards.link import LinkClient
from hdl.array.geometry import PRESETS
from sim.contract.codebook import affine_codebook
from sim.contract.linear import QuantizedLinear, linear


def layer_of(inputs: int, outputs: int, *, seed: int) -> QuantizedLinear:
    """A layer with random numbers; its first K tile uniform, the others with random codebooks."""
    rng = np.random.default_rng(seed)
    tiles = -(-inputs // 64)
    codebooks = rng.integers(-15, 16, (tiles, 16)).astype(np.int8)
    codebooks[0] = affine_codebook()
    return QuantizedLinear(
        name="test",
        weight=rng.integers(-8, 8, (outputs, inputs)).astype(np.int8),
        scale=rng.integers(1, 60000, (tiles, outputs)).astype(np.uint16),
        bias=rng.integers(-(2**20), 2**20, outputs).astype(np.int32),
        codebooks=codebooks,
        wide_exponent=-8,
        permutation=rng.permutation(inputs).astype(np.uint16),
        activation_scale=np.ones(tiles, np.float32),
        activation_offset=np.zeros(inputs, np.float32),
    )


def codes_of(tokens: int, inputs: int, *, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 16, (tokens, inputs)).astype(np.uint8)


def test_a_layer_through_link_and_array_equals_the_contract(simulated_board: Callable[..., Any]) -> None:
    layer, codes = layer_of(72, 6, seed=1), codes_of(5, 72, seed=2)
    board = simulated_board()
    client = LinkClient(board)
    assert client.geometry.macs == PRESETS["tiny"].macs
    expected = linear(codes, layer)
    assert len(np.unique(expected)) > 20
    np.testing.assert_array_equal(client.run_linear(codes, layer), expected)
    counters = client.counters()
    assert counters.bad_frames == 0
    assert counters.busy_replies == 0
    assert 0 < counters.busy_cycles < board.cycles


def test_more_tokens_than_results_fit(simulated_board: Callable[..., Any]) -> None:
    """40 tokens: more than the 32 results that the array holds before it stops taking codes."""
    layer, codes = layer_of(16, 4, seed=3), codes_of(40, 16, seed=4)
    np.testing.assert_array_equal(LinkClient(simulated_board()).run_linear(codes, layer), linear(codes, layer))
