"""Programs of small encoders on the executor: every step's result equals the golden model's."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sim.compiler.compile import Layer, compile_encoder
from sim.compiler.rounds import roll
from sim.compiler.run import check_layer, run_encoder
from sim.contract.errors import UserError
from sim.cycles.memory import memory_rate
from sim.cycles.model import rolled_out
from sim.cycles.timeline import Timeline
from sim.machine.commands import COMMAND_BYTES, Command, Opcode
from sim.machine.ports import Port, record_bytes
from sim.machine.presets import PRESETS, MachinePreset


def compare(toy: Any) -> tuple[Callable[[Layer, NDArray[np.int16]], None], list[str]]:
    seen: list[str] = []

    def done(layer: Layer, result: NDArray[np.int16]) -> None:
        check_layer(layer, result, toy.results[layer.names[-1]])
        seen.extend(layer.names)

    return done, seen


@pytest.mark.parametrize("name", PRESETS)
def test_every_step_is_golden(toy: Any, name: str) -> None:
    program = compile_encoder(toy.parameters, toy.architecture, PRESETS[name])
    done, seen = compare(toy)
    embedding = run_encoder(program, toy.picture, done)
    np.testing.assert_array_equal(embedding.values, toy.embedding)
    assert seen == list(toy.results)
    assert len(np.unique(toy.embedding)) > 500


def test_in_stripes_where_memory_is_short(toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results larger than a share of memory are never there as a whole: fewer steps, less memory, the same bits."""
    whole = compile_encoder(toy.parameters, toy.architecture, PRESETS["tiny"])
    largest = max(2 * result.size for result in toy.results.values())
    monkeypatch.setattr("sim.compiler.compile.STRIPED_SHARE", 3 * PRESETS["tiny"].memory_bytes // largest)
    program = compile_encoder(toy.parameters, toy.architecture, PRESETS["tiny"])
    done, seen = compare(toy)
    assert np.array_equal(run_encoder(program, toy.picture, done).values, toy.embedding)
    assert seen == list(toy.results)
    assert len(program.layers) < len(whole.layers)
    assert program.needed_bytes - program.writable < whole.needed_bytes - whole.writable


def test_a_second_picture_on_the_same_memory(toy_tiny_vit: Any) -> None:
    """Nothing of a run is needed by the next: the padding that is written once is written again."""
    program = compile_encoder(toy_tiny_vit.parameters, toy_tiny_vit.architecture, PRESETS["tiny"])
    dirty = replace(program, image=program.image + b"\x55" * (program.preset.memory_bytes - len(program.image)))
    embedding = run_encoder(dirty, toy_tiny_vit.picture)
    np.testing.assert_array_equal(embedding.values, toy_tiny_vit.embedding)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"memory_bytes": 1 << 16}, "--memory-mb 8"),
        ({"tables": 1}, "level sets"),
        ({"codebooks": 1}, "codebooks"),
        ({"norm_channels": 32}, "channels"),
        ({"keys": 4}, "keys"),
        ({"logit_words": 1}, "keys"),
        ({"loader_rows": 24}, "loader_rows"),
        ({"map_columns": 4}, "columns"),
    ],
)
def test_what_a_preset_cannot_hold_is_named(toy_tiny_vit: Any, change: dict[str, int], named: str) -> None:
    preset: MachinePreset = replace(PRESETS["tiny"], **change)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=named) as caught:
        compile_encoder(toy_tiny_vit.parameters, toy_tiny_vit.architecture, preset)
    assert "\n" not in str(caught.value)


def test_a_difference_names_layer_token_and_channel(toy_sam_vit: Any) -> None:
    program = compile_encoder(toy_sam_vit.parameters, toy_sam_vit.architecture, PRESETS["tiny"])
    layer = program.layers[3]
    wanted = toy_sam_vit.results[layer.names[-1]]
    found = wanted.copy()
    found.reshape(-1, found.shape[-1])[5, 7] += 1
    with pytest.raises(UserError, match=rf"{layer.names[-1]}: token 5, channel 7 is .* \(1 of {wanted.size}"):
        check_layer(layer, found, wanted)


def test_sets_of_some_queries_roll_up(toy_sam_vit: Any) -> None:
    """Where the buffer of logits holds a part of a window's queries, commands of the position unit are read, so that
    the sets of a head are rounds of one body; the bits are those of whole windows, the time that of commands sent."""
    tight: MachinePreset = replace(PRESETS["tiny"], logit_words=12)
    program = compile_encoder(toy_sam_vit.parameters, toy_sam_vit.architecture, tight)
    done, seen = compare(toy_sam_vit)
    assert np.array_equal(run_encoder(program, toy_sam_vit.picture, done).values, toy_sam_vit.embedding)
    assert seen == list(toy_sam_vit.results)
    layer = next(layer for layer in program.layers if layer.names[-1].endswith("blocks.1.attn.attend"))
    first, stop = (address // COMMAND_BYTES for address in layer.commands)
    positions = [command for command in program.commands[first:stop] if command.port == Port.POSITION_COMMAND]
    assert all(command.opcode == Opcode.READ for command in positions)
    assert any(command.base for command in positions)
    run = [one for one, _ in rolled_out(program.commands, first, stop) if one.port == Port.POSITION_COMMAND]
    assert len(run) == 2 * 9 > 2 * len(positions) - 2
    image = np.frombuffer(program.image, np.uint8)
    read, sent = (Timeline(tight, memory_rate("onchip", tight), image) for _ in range(2))
    for command, again in rolled_out(program.commands, first, stop):
        read.do(command, again=again)
        if command.port == Port.POSITION_COMMAND:
            payload = image[command.address : command.address + record_bytes(Port.POSITION_COMMAND)].tobytes()
            sent.do(Command(Opcode.SEND, Port.POSITION_COMMAND, payload=payload), again=again)
        else:
            sent.do(command, again=again)
    assert read.end() == pytest.approx(sent.end(), rel=0.01)


def test_long_parts_are_rolled_up_by_themselves(toy_sam_vit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same commands run, whether a step's heads are rolled up one by one or all together."""
    preset = PRESETS["tiny"]
    runs, parts = [], [0, 0]
    for number, long in enumerate((1 << 17, 100)):

        def counted(*given: Any, number: int = number) -> list[Command]:
            parts[number] += 1
            return roll(*given)

        monkeypatch.setattr("sim.compiler.builder.roll", counted)
        monkeypatch.setattr("sim.compiler.builder.LONG_PART", long)
        program = compile_encoder(toy_sam_vit.parameters, toy_sam_vit.architecture, preset)
        done, _ = compare(toy_sam_vit)
        run_encoder(program, toy_sam_vit.picture, done)
        layer = next(one for one in program.layers if one.names[-1].endswith("blocks.1.attn.attend"))
        first, stop = (address // COMMAND_BYTES for address in layer.commands)
        run = [one for one, _ in rolled_out(program.commands, first, stop) if one.opcode != Opcode.REPEAT]
        moves = [(one.opcode, one.port, one.counts, one.payload) for one in run if one.opcode != Opcode.WAIT]
        runs.append(moves)
    assert runs[0] == runs[1]
    assert parts[1] > parts[0] == len(program.layers)
