"""Chains of maps in windows of near memory: the golden bits, nothing in between outside, every window a chain's own."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sim.compiler.compile import Layer, Program, compile_encoder
from sim.compiler.run import check_layer, run_encoder
from sim.compiler.tile_choice import TileChoice, TileTrial, windows_of
from sim.compiler.tiles import Tiles
from sim.compiler.traffic import traffic
from sim.cycles.model import rolled_out
from sim.machine.commands import COMMAND_BYTES, Opcode
from sim.machine.presets import PRESETS

TINY = PRESETS["tiny"]
BLOCK = "layers.0.blocks.0.act3"
MERGING = ("layers.0.downsample.conv3.c", "layers.1.downsample.conv3.c")


def ending(program: Program, name: str) -> Layer:
    """The step whose last operation is this."""
    return next(layer for layer in program.layers if layer.names[-1].endswith(name))


def in_windows(toy: Any, patch: pytest.MonkeyPatch, rows: int, columns: int) -> Program:
    """A program whose windows have this size and find no constants near."""
    patch.setattr(TileTrial, "choice", lambda self: TileChoice(rows, columns, (), 0))
    return compile_encoder(toy.parameters, toy.architecture, replace(TINY, near_bytes=1 << 18))


@pytest.mark.parametrize(("rows", "columns"), [(24, 24), (5, 7), (4, 24), (24, 3)])
def test_windows_of_any_size_are_golden(
    toy_tiny_vit: Any, monkeypatch: pytest.MonkeyPatch, rows: int, columns: int
) -> None:
    """Sizes that do not divide the map, strides of 1 and 2, a sum with the chain's input, windows made from others."""
    program = in_windows(toy_tiny_vit, monkeypatch, rows, columns)
    checked = []

    def done(layer: Layer, result: Any) -> None:
        check_layer(layer, result, toy_tiny_vit.results[layer.names[-1]])
        checked.append(layer.names[-1])

    embedding = run_encoder(program, toy_tiny_vit.picture, done)
    np.testing.assert_array_equal(embedding.values, toy_tiny_vit.embedding)
    for name in (BLOCK, *MERGING):
        assert len(ending(program, name).names) >= 5


def external(program: Program, layer: Layer) -> Iterable[Any]:
    first, stop = (address // COMMAND_BYTES for address in layer.commands)
    return [one for one in program.commands[first:stop] if one.address < program.preset.memory_bytes]


def test_external_memory_gets_the_result_alone(toy_tiny_vit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    program = in_windows(toy_tiny_vit, monkeypatch, 5, 7)
    for name in (BLOCK, *MERGING):
        layer = ending(program, name)
        size = int(np.prod(layer.result.shape[:-1])) * layer.result.pitch
        moving = traffic(program.commands, layer.commands, program.preset, program.writable)
        written = [one.address for one in external(program, layer) if one.opcode == Opcode.WRITE]
        assert moving.beats_written * program.preset.beat_bytes == size
        assert all(layer.result.address <= address < layer.result.address + size for address in written)


def test_the_choice_fits_and_is_the_cheapest(toy_tiny_vit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[TileChoice] = []
    chosen: list[TileChoice] = []
    one, choice = TileTrial._tried, TileTrial.choice

    def kept(self: TileTrial, *size: Any) -> TileChoice | None:
        found = one(self, *size)
        if found is not None:
            tried.append(found)
        return found

    def compared(self: TileTrial) -> TileChoice | None:
        tried.clear()
        before = len(self.builder.commands), self.builder.near.room
        found = choice(self)
        assert (len(self.builder.commands), self.builder.near.room) == before
        if found is not None:
            assert found.cost == min(other.cost for other in tried)
            assert self._bytes(found.rows, found.columns) <= self.builder.preset.near_bytes
            chosen.append(found)
        return found

    monkeypatch.setattr(TileTrial, "_tried", kept)
    monkeypatch.setattr(TileTrial, "choice", compared)
    compile_encoder(toy_tiny_vit.parameters, toy_tiny_vit.architecture, TINY)
    assert len(chosen) == 3 and any(found.constants for found in chosen)


def test_without_room_near_the_chain_runs_as_before(toy_tiny_vit: Any) -> None:
    program = compile_encoder(toy_tiny_vit.parameters, toy_tiny_vit.architecture, replace(TINY, near_bytes=1 << 8))
    assert all(not layer.names[0].endswith("conv1.c") or len(layer.names) < 5 for layer in program.layers)
    embedding = run_encoder(program, toy_tiny_vit.picture)
    np.testing.assert_array_equal(embedding.values, toy_tiny_vit.embedding)


def test_windows_made_from_others_have_the_commands_of_their_own(
    toy_tiny_vit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And rolled up, they are stored in fewer."""

    def done(program: Program) -> list[Any]:
        layer = ending(program, MERGING[0])
        first, stop = (address // COMMAND_BYTES for address in layer.commands)
        base, near = layer.result.address, program.preset.memory_bytes

        def place(address: int) -> int:
            return address - near if address >= near else max(address - base, 0)

        return [
            (one.opcode, one.port, place(one.address), one.counts, one.payload)
            for one, _ in rolled_out(program.commands, first, stop)
            if one.opcode != Opcode.REPEAT
        ]

    moved = in_windows(toy_tiny_vit, monkeypatch, 3, 4)
    shape, number = Tiles.shape, iter(range(1 << 30))
    monkeypatch.setattr(Tiles, "shape", lambda self, wanted: (shape(self, wanted), next(number)))
    own = in_windows(toy_tiny_vit, monkeypatch, 3, 4)
    assert done(moved) == done(own)
    assert len(moved.commands) < len(own.commands)


def test_windows_cover_a_map_once() -> None:
    for rows, columns in ((3, 4), (10, 2), (2, 11)):
        seen = np.concatenate([window.tokens(11) for window in windows_of(10, 11, rows, columns)])
        np.testing.assert_array_equal(np.sort(seen), np.arange(110))
