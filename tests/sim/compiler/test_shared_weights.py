"""Weights of both planes of codes: from external memory once, and in rooms that take turns."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sim.compiler.block_choice import kept_blocks
from sim.compiler.compile import Layer, Program, compile_encoder
from sim.compiler.run import run_encoder
from sim.compiler.shared_weights import SharedUnit, shared_unit
from sim.compiler.traffic import moved
from sim.cycles.model import rolled_out
from sim.machine.commands import COMMAND_BYTES, Opcode
from sim.machine.ports import Port
from sim.machine.presets import PRESETS

TINY = replace(PRESETS["tiny"], near_bytes=1 << 13, block_words=128)
"""Near memory that holds the codes of half the tokens of a 3 x 3 convolution."""

FULL = PRESETS["full"]


@pytest.fixture(scope="module")
def program(toy_sam_vit: Any) -> Program:
    return compile_encoder(toy_sam_vit.parameters, toy_sam_vit.architecture, TINY)


def external_constants(program: Program, layer: Layer, port: Port) -> int:
    """Bytes of the image that READs to a port take."""
    first, stop = (address // COMMAND_BYTES for address in layer.commands)
    return TINY.beat_bytes * sum(
        moved(one, TINY, program.writable).beats_constants
        for one, _ in rolled_out(program.commands, first, stop)
        if one.opcode == Opcode.READ and one.port == port
    )


def test_a_convolution_reads_its_weights_once_for_both_planes(program: Program, toy_sam_vit: Any) -> None:
    layer = next(layer for layer in program.layers if layer.names[-1].endswith("neck.2"))
    convolution = toy_sam_vit.parameters.operations[layer.names[-1]]
    assert convolution.level_planes == 2
    assert external_constants(program, layer, Port.WEIGHTS) == 0
    blocks = -(-convolution.encoder.channels // TINY.rows)
    assert external_constants(program, layer, Port.COPY) == 2 * (convolution.outputs * blocks * TINY.rows // 2)


def test_results_are_golden(program: Program, toy_sam_vit: Any) -> None:
    results: dict[str, Any] = {}
    run_encoder(program, toy_sam_vit.picture, lambda one, result: results.update({one.names[-1]: result}))
    for name, result in results.items():
        assert np.array_equal(result.reshape(-1), toy_sam_vit.results[name].reshape(-1)), name


@pytest.mark.parametrize(("tokens", "words", "expected"), [(110, 72, 6), (179, 40, 4), (512, 72, 2), (900, 72, 2)])
def test_blocks_are_an_even_number_of_k_tiles(tokens: int, words: int, expected: int) -> None:
    choice = kept_blocks(FULL, tokens, words, SharedUnit(2, 1024))
    assert choice.words == expected
    assert choice.words * choice.tokens <= FULL.block_words
    assert -(-words // choice.words) % 2 == 0


def test_one_codebook_shares_nothing(toy_sam_vit: Any) -> None:
    operations = toy_sam_vit.parameters.operations
    lin1 = next(one for name, one in operations.items() if name.endswith("lin1"))
    assert shared_unit(lin1, FULL) is None
