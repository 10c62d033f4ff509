"""Attention a few windows at a time: external memory gives the map and gets the sum, whatever windows are padded."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sim.compiler.compile import Layer, Program, compile_encoder
from sim.compiler.run import check_layer, run_encoder
from sim.compiler.traffic import traffic
from sim.compiler.window_choice import WindowPlan, WindowTrial
from sim.cycles.model import rolled_out
from sim.machine.commands import COMMAND_BYTES, Command, Opcode
from sim.machine.ports import Port
from sim.machine.presets import PRESETS, MachinePreset

SMALL = replace(PRESETS["small"], near_bytes=1 << 18)

BLOCK = ("layers.1.blocks.0.attn.norm", "attn.qkv", "attn.attend", "attn.proj", "attn.add")
"""Windows of 5 x 5 pixels on a map of 12 x 12: 4 are whole, 2 end at the right, 2 at the bottom, 1 at both."""


def planned(toy: Any, patch: pytest.MonkeyPatch, windows: int, heads: int, preset: MachinePreset = SMALL) -> Program:
    """A program whose stripes have so many windows, and groups so many heads."""
    patch.setattr(WindowTrial, "cheapest", lambda self: WindowPlan(windows, heads))
    return compile_encoder(toy.parameters, toy.architecture, preset)


@pytest.fixture(scope="module")
def program(toy_tiny_vit: Any) -> Program:
    """A window a stripe, all heads at once."""
    with pytest.MonkeyPatch.context() as patch:
        return planned(toy_tiny_vit, patch, 1, 4)


def step(program: Program) -> Layer:
    return next(
        layer
        for layer in program.layers
        if len(layer.names) == len(BLOCK)
        and all(name.endswith(end) for name, end in zip(layer.names, BLOCK, strict=True))
    )


def external(program: Program) -> list[Command]:
    """READs and WRITEs of tensors in external memory."""
    first, stop = (address // COMMAND_BYTES for address in step(program).commands)
    moves = [one for one, _ in rolled_out(program.commands, first, stop) if one.opcode in (Opcode.READ, Opcode.WRITE)]
    return [one for one in moves if program.writable <= one.address < SMALL.memory_bytes]


def test_external_memory_gives_the_map_once_and_gets_the_sum(program: Program) -> None:
    moves, shape = external(program), step(program).result.shape
    beats = int(np.prod(shape)) // SMALL.lanes
    for opcode, port in ((Opcode.READ, Port.COPY), (Opcode.WRITE, Port.SUMS)):
        of_kind = [one for one in moves if one.opcode == opcode]
        assert {one.port for one in of_kind} == {port}
        assert sum(one.beats for one in of_kind) == beats


def test_the_sum_overwrites_the_map(program: Program) -> None:
    first = step(program).result.address
    size = int(np.prod(step(program).result.shape[:-1])) * step(program).result.pitch
    assert all(first <= one.address < first + size for one in external(program))


def test_constants_are_read_once(program: Program) -> None:
    """Of external memory, where near memory has room for all of them; padding is read near too."""
    first, stop = (address // COMMAND_BYTES for address in step(program).commands)
    constants = [
        (one.port, one.address)
        for one, _ in rolled_out(program.commands, first, stop)
        if one.opcode == Opcode.READ and one.address < program.writable and one.port != Port.COPY
    ]
    assert len(set(constants)) == len(constants) > 0


def test_windows_padded_alike_are_the_same_commands(program: Program) -> None:
    """At other addresses; the first alone brings the tables."""
    layer = step(program)
    first, stop = (address // COMMAND_BYTES for address in layer.commands)
    done = [one for one, _ in rolled_out(program.commands, first, stop) if one.opcode != Opcode.REPEAT]
    begins = [at for at, one in enumerate(done) if one.opcode == Opcode.SEND and one.port == Port.NORM_COMMAND]
    assert len(begins) == 9
    stripes = [done[at:end] for at, end in zip(begins, [*begins[1:], len(done)], strict=True)]
    same = [[(one.opcode, one.port, one.counts, one.payload) for one in stripe] for stripe in stripes]
    # Windows 0 to 3 are whole; a stripe counted from its norm on ends with what the next one copies.
    assert same[1] == same[2] != same[0]
    moving = traffic(program.commands, layer.commands, SMALL, program.writable)
    assert 2 * moving.stored_commands < moving.run_commands


@pytest.mark.parametrize(
    ("windows", "heads", "preset"), [(1, 4, SMALL), (2, 2, PRESETS["full"]), (4, 1, SMALL)], ids=["1-4", "2-2", "4-1"]
)
def test_windows_and_heads_are_golden(
    toy: Any, monkeypatch: pytest.MonkeyPatch, windows: int, heads: int, preset: MachinePreset
) -> None:
    """With a norm in front and the sum's map cut, and with neither; heads beyond those there are make one group."""
    checked = []

    def done(layer: Layer, result: Any) -> None:
        check_layer(layer, result, toy.results[layer.names[-1]])
        checked.append(len(layer.names))

    program = planned(toy, monkeypatch, windows, heads, preset)
    assert np.array_equal(run_encoder(program, toy.picture, done).values, toy.embedding)
    assert {4, 5} & set(checked)


def test_windows_come_near_where_external_memory_is_dear(toy_tiny_vit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few windows of an invented map take fewer cycles all at once."""
    found = []
    for cycles in (7, 1000):
        monkeypatch.setattr("sim.compiler.estimate.EXTERNAL_CYCLES", cycles)
        program = compile_encoder(toy_tiny_vit.parameters, toy_tiny_vit.architecture, SMALL)
        found.append(next(len(one.names) for one in program.layers if one.names[0].endswith(BLOCK[0])))
    assert found == [2, 5]
