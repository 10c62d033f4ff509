"""Bytes that external memory gives again: by hand, and never more than what a compiled program moves."""

from collections.abc import Callable
from dataclasses import replace
from itertools import product

import pytest

from sim.compiler.compile import compile_encoder
from sim.compiler.heads import queries_of_set
from sim.compiler.trace import trace
from sim.contract.attention import Attention
from sim.contract.layer import QuantizedLayer
from sim.cycles.again import again, bytes_again, held_bytes, of_product
from sim.cycles.memory import memory_rate
from sim.cycles.model import program_cycles
from sim.machine.presets import PRESETS, MachinePreset
from tests.sim.compiler.networks import Toy, toy_sam_vit, toy_tiny_vit

SMALL_CHIP = replace(PRESETS["tiny"], near_bytes=1 << 11, block_words=64)
"""Less than the operands of most layers."""


def test_one_operand_in_parts_and_the_other_past_each() -> None:
    """Against all ways to cut one of them into equal parts that fit."""
    for codes, weights, held in product((600, 1200, 2400), (600, 1200, 3600), (100, 200, 300)):
        ways = [parts * other + one for one, other in ((codes, weights), (weights, codes)) for parts in [one // held]]
        assert of_product(codes, weights, held) == min(ways) - codes - weights


@pytest.mark.parametrize(("codes", "weights"), [(100, 9000), (9000, 100), (100, 100)])
def test_one_that_fits_lets_the_other_pass_once(codes: int, weights: int) -> None:
    assert of_product(codes, weights, 100) == 0


def test_keys_that_do_not_fit_pass_for_every_set() -> None:
    toy = toy_sam_vit()
    nodes, _ = trace(toy.parameters, toy.architecture, SMALL_CHIP.lanes)
    found = [node for node in nodes if isinstance(node.operation, Attention)]
    assert {node.shape[0] for node in found} > {1}  # windows, and one global attention
    for node in found:
        windows, tokens, channels = node.shape
        operation = node.operation
        assert isinstance(operation, Attention)
        preset = replace(SMALL_CHIP, near_bytes=0, block_words=8, logit_words=8 * -(-tokens // SMALL_CHIP.columns))
        queries = queries_of_set(preset, tokens, 4)  # two nibbles of q in two blocks of rows
        assert queries == 2
        sets = -(-tokens // queries)
        # k and v have bytes; a head's are there for one set after the other but for what the buffer of codes holds.
        of_head = 2 * tokens * channels // operation.heads - 8 * preset.rows
        assert again(node, preset) == windows * operation.heads * (sets - 1) * of_head


@pytest.mark.parametrize("network", [toy_sam_vit, toy_tiny_vit])
@pytest.mark.parametrize(
    "preset", [PRESETS["tiny"], replace(PRESETS["tiny"], near_bytes=1 << 12, block_words=128), SMALL_CHIP]
)
def test_no_program_moves_less(network: Callable[[], Toy], preset: MachinePreset) -> None:
    toy = network()
    least = bytes_again(toy.parameters, toy.architecture, preset)
    assert any(least.values()) == (preset != PRESETS["tiny"])
    program = compile_encoder(toy.parameters, toy.architecture, preset)
    for layer in program_cycles(program, memory_rate("sdram", preset), least):
        assert layer.bytes_again == sum(least[name] for name in layer.names)
        assert layer.bytes_once + layer.bytes_again <= layer.bytes_read + layer.bytes_written, layer.names


def test_dense_layers_count_codes_and_weights_in_their_nibbles() -> None:
    toy = toy_tiny_vit()
    nodes, _ = trace(toy.parameters, toy.architecture, SMALL_CHIP.lanes)
    held, some = held_bytes(SMALL_CHIP), 0
    assert held == (1 << 11) + 64 * SMALL_CHIP.rows
    for node in nodes:
        layer = node.operation
        if isinstance(layer, QuantizedLayer) and node.inputs[0].beats is None:
            inputs = node.inputs[0].tokens * layer.encoder.channels * (1 if layer.encoder.levels.shape[1] == 16 else 2)
            expected = of_product(inputs // 2, layer.weight.size * layer.weight_planes // 2, held)
            assert again(node, SMALL_CHIP) == expected
            some += expected > 0
    assert some
