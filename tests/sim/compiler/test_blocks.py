"""Blocks of codes: how a layer is cut into them, in what order they are filled, and what stays on the chip."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from sim.compiler.block_choice import LayerSize, choose_blocks
from sim.compiler.builder import Builder
from sim.compiler.code_blocks import CodeBlock, run_blocks
from sim.compiler.compile import Program, compile_encoder
from sim.compiler.shared_weights import SharedUnit
from sim.contract.errors import UserError
from sim.machine.commands import COMMAND_BYTES, Opcode
from sim.machine.ports import Port
from sim.machine.presets import PRESETS
from sim.machine.records import sent_fields

FULL = PRESETS["full"]


def size(**changes: int) -> LayerSize:
    """128 to 512 channels, codes of one nibble, on a map of 64 x 64."""
    fields: dict[str, Any] = {
        "tokens": 4096,
        "words": 2,
        "passes": 2,
        "columns": 16,
        "load": 70,
        "weight_bytes": 1 << 15,
    }
    return LayerSize(name="layer", **(fields | {"value_cycles": 16, "value_beats": 16} | changes))


def test_short_tokens_go_from_the_encoder_to_the_array() -> None:
    choice = choose_blocks(FULL, size(), FULL.near_bytes)
    assert (choice.tokens, choice.words, choice.kept) == (512, 2, 0)
    assert choice.weights_near


def test_weights_stay_where_they_are_read_once_or_find_no_room() -> None:
    assert not choose_blocks(FULL, size(tokens=512), FULL.near_bytes).weights_near
    assert not choose_blocks(FULL, size(), 1 << 14).weights_near


def test_codes_of_long_tokens_are_kept() -> None:
    """3 x 3 convolution of 256 channels: 14 tokens would fill the buffer, which a LOAD takes longer than."""
    choice = choose_blocks(
        FULL,
        size(words=72, passes=72, columns=8, value_cycles=288, value_beats=288, weight_bytes=288 << 10),
        FULL.near_bytes,
    )
    assert choice.kept == choice.tokens > 64
    assert choice.words * choice.tokens <= FULL.block_words


def test_a_token_longer_than_the_buffer_is_kept() -> None:
    choice = choose_blocks(FULL, size(words=2 * FULL.block_words), 0)
    assert choice.kept and choice.words * choice.tokens <= FULL.block_words


def test_each_block_is_filled_behind_the_first_step_of_the_one_before() -> None:
    log: list[str] = []

    def feed(name: int, first: int, stop: int) -> None:
        log.append(f"feed {name} {first}-{stop}")

    def blocks() -> Iterator[CodeBlock]:
        for name in range(3):
            steps = [partial(log.append, f"step {name} {number}") for number in range(4)]
            yield CodeBlock(8, 6, 4, partial(feed, name), steps, 2)

    class Logged(Builder):
        def send(self, port: Port, **fields: int) -> None:
            log.append(f"{port.name} {fields['words']}")

    run_blocks(Logged(FULL), blocks())
    assert log[:2] == ["CODE_BLOCK 8", "feed 0 0-6"]
    for name in range(3):
        steps = [log.index(f"step {name} {number}") for number in range(4)]
        assert steps == sorted(steps)
        if name < 2:
            assert log[steps[0] + 1] == "CODE_BLOCK 8"
            fed = [one for one in log if one.startswith(f"feed {name + 1} ")]
            assert len(fed) == 4
            assert fed[0].endswith("0-1") and fed[-1].endswith("-6")
            assert all(steps[0] < log.index(one) for one in fed)
            assert max(log.index(one) for one in fed) < log.index(f"step {name + 1} 0")


@pytest.fixture(scope="module")
def program(toy_tiny_vit: Any) -> Program:
    return compile_encoder(toy_tiny_vit.parameters, toy_tiny_vit.architecture, PRESETS["tiny"])


def test_every_step_begins_and_ends_without_routes(program: Program) -> None:
    taken = set()
    for layer in program.layers:
        on: set[int] = set()
        for command in program.commands[layer.commands[0] // COMMAND_BYTES : layer.commands[1] // COMMAND_BYTES]:
            if command.opcode == Opcode.SEND and command.port == Port.ROUTE:
                fields = sent_fields(Port.ROUTE, command.payload)
                taken.add(Port(fields["source"]).name)
                (on.add if fields["on"] else on.discard)(fields["source"])
        assert not on, layer.names
    assert taken == {"NORMED", "ENCODED", "RESULTS", "CONVOLVED", "SUMS"}


def test_no_result_of_a_step_lies_in_near_memory(program: Program) -> None:
    near = program.preset.memory_bytes
    assert all(layer.result.address < near for layer in program.layers)
    written = [one for one in program.commands if one.opcode == Opcode.WRITE and one.address >= near]
    assert {one.port for one in written} >= {Port.COPIED, Port.ENCODED}
    assert all(one.address < near + program.preset.near_bytes for one in written)


def test_words_of_less_than_a_beat_are_refused() -> None:
    with pytest.raises(UserError, match="more rows"):
        choose_blocks(replace(FULL, rows=16), size(), 0)


def test_kept_codes_leave_room_for_weights_that_passes_share() -> None:
    convolution = {"words": 72, "passes": 72, "columns": 8, "value_cycles": 288, "value_beats": 288}
    convolution["weight_bytes"] = 288 << 10
    unit = SharedUnit(2, FULL.pass_bytes)
    alone, shared = (
        choose_blocks(FULL, replace(size(**convolution), shared=one), FULL.near_bytes) for one in (None, unit)
    )
    assert FULL.near_bytes - alone.kept * 72 * 32 < 2 * 3 * 1024
    assert shared.words == 6
    assert FULL.near_bytes - shared.kept * 72 * 32 >= 2 * 3 * 1024
