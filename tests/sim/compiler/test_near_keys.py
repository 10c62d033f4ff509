"""Global attention in sets of few queries: K of a head comes near once, as much of it as there is room for."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sim.compiler.compile import Layer, Program, compile_encoder
from sim.compiler.run import run_encoder
from sim.cycles.model import rolled_out
from sim.machine.commands import COMMAND_BYTES, Command, Opcode
from sim.machine.ports import Port
from sim.machine.presets import PRESETS

TINY = replace(PRESETS["tiny"], logit_words=12)
"""Room for the logits of three queries of 25 keys: nine sets of a head."""

HEADS, SETS, TILES, PASSES = 2, 9, 4, 4
"""Of the global block: column tiles of 8 keys; nibble planes of k and of q."""

TILE_BYTES = 8 * 64
"""Both nibbles of 64 channels of 8 keys."""


def compiled(toy: Any, near_bytes: int) -> tuple[Program, Layer]:
    program = compile_encoder(toy.parameters, toy.architecture, replace(TINY, near_bytes=near_bytes))
    return program, next(one for one in program.layers if one.names[-1].endswith("blocks.1.attn.attend"))


def bytes_read(program: Program, layer: Layer, port: Port, *, near: bool) -> int:
    first, stop = (address // COMMAND_BYTES for address in layer.commands)

    def wanted(command: Command) -> bool:
        return command.opcode == Opcode.READ and command.port == port and (command.address >= TINY.memory_bytes) == near

    return TINY.beat_bytes * sum(one.beats for one, _ in rolled_out(program.commands, first, stop) if wanted(one))


@pytest.mark.parametrize(("near_bytes", "held"), [(7 << 10, 4), (5 << 8, 2), (1 << 10, 1), (1 << 8, 0)])
def test_tiles_that_fit_are_read_from_external_memory_once(toy_sam_vit: Any, near_bytes: int, held: int) -> None:
    program, layer = compiled(toy_sam_vit, near_bytes)
    # A pass reads one of two planes.
    through = HEADS * SETS * TILE_BYTES * PASSES // 2
    assert bytes_read(program, layer, Port.WEIGHTS_TURNED, near=True) == held * through
    assert bytes_read(program, layer, Port.WEIGHTS_TURNED, near=False) == (TILES - held) * through


def test_scales_that_scores_take_again_and_again_are_near_too(toy_sam_vit: Any) -> None:
    row_blocks, scale_bytes = 2, 2 * TINY.columns
    taken = HEADS * SETS * TILES * row_blocks * PASSES * scale_bytes
    program, layer = compiled(toy_sam_vit, 7 << 10)
    assert bytes_read(program, layer, Port.SCALE, near=True) >= taken
    program, layer = compiled(toy_sam_vit, 1 << 8)
    assert bytes_read(program, layer, Port.SCALE, near=True) == 0


@pytest.mark.parametrize("near_bytes", [7 << 10, 5 << 8])
def test_the_bits_are_golden(toy_sam_vit: Any, near_bytes: int) -> None:
    program, _ = compiled(toy_sam_vit, near_bytes)
    results: dict[str, Any] = {}
    run_encoder(program, toy_sam_vit.picture, lambda one, result: results.update({one.names[-1]: result}))
    for name, result in results.items():
        assert np.array_equal(result.reshape(-1), toy_sam_vit.results[name].reshape(-1)), name
