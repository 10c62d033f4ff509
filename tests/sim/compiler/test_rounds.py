"""Rolled programs: what runs is what was rolled up."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from sim.compiler import rounds
from sim.compiler.rounds import roll
from sim.compiler.traffic import traffic
from sim.machine.commands import COMMAND_BYTES, Command, Opcode
from sim.machine.ports import Port
from sim.machine.presets import PRESETS


def unrolled(commands: list[Command], start: int) -> list[Command]:
    """The commands that run, bases added."""
    result: list[Command] = []
    for number, command in enumerate(commands):
        if command.opcode != Opcode.REPEAT:
            result.append(command)
            continue
        body = commands[command.address // COMMAND_BYTES - start : number]
        del result[-len(body) :]
        for turn in range(command.rounds):
            for one in body:
                grown = turn * command.steps[one.base - 1] if one.base else 0
                result.append(replace(one, address=one.address + grown, base=0))
    return result


def read(address: int, count: int = 1) -> Command:
    return Command(Opcode.READ, Port.COPY, address, (count, 1, 1, 1))


def test_rounds_of_rounds() -> None:
    """Three heads of forty windows: the windows are rolled, the heads are not."""
    commands = [Command(Opcode.WAIT)]
    for head in range(3):
        commands.append(read(0, 5 + head))
        for window in range(40):
            commands += [read(head * 16 + window * 64), read(4096, 2), read(8192 + window * 48, 3)]
    rolled = roll(commands, 7)
    assert unrolled(rolled, 7) == commands
    assert len(rolled) < 20
    span = 7 * COMMAND_BYTES, (7 + len(rolled)) * COMMAND_BYTES
    preset = replace(PRESETS["tiny"], memory_bytes=8192)
    moved = traffic([*[Command(Opcode.WAIT)] * 7, *rolled], span, preset, 4096)
    reads = [one for one in commands if one.opcode == Opcode.READ]
    assert moved.beats_read == sum(one.beats for one in reads if one.address < 8192) > 0
    assert moved.beats_near_read == sum(one.beats for one in reads if one.address >= 8192) > 0
    assert moved.beats_constants == sum(one.beats for one in reads if one.address < 4096) > 0
    assert moved.beats_written == moved.beats_near_written == 0


def test_more_increments_than_base_registers_stay_as_they_are() -> None:
    commands = [read(number * (1 + place) * 16, 1 + place) for number in range(9) for place in range(6)]
    assert roll(commands, 0) == commands


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_lost_of_random_repetitions(seed: int) -> None:
    random = np.random.default_rng(seed)
    commands: list[Command] = []
    for _ in range(12):
        body = [read(int(random.integers(64)) * 16, int(random.integers(1, 4))) for _ in range(random.integers(1, 6))]
        steps = [int(step) * 16 for step in random.integers(0, 4, len(body))]
        for turn in range(int(random.integers(1, 9))):
            commands += [replace(one, address=one.address + turn * s) for one, s in zip(body, steps, strict=True)]
    rolled = roll(commands, 3)
    assert unrolled(rolled, 3) == commands
    assert len(rolled) <= len(commands)


def test_what_lies_elsewhere_is_not_searched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def part(first: int, second: int, step: int) -> list[Command]:
        body = [(read(first + turn * step), read(second + turn * 16, 2)) for turn in range(30)]
        return [command for pair in body for command in pair]

    searched = []
    chosen = rounds._chosen

    def counted(kinds: NDArray[np.int64], addresses: NDArray[np.int64], offset: int) -> list[rounds.Body]:
        searched.append(offset)
        return chosen(kinds, addresses, offset)

    monkeypatch.setattr(rounds, "_chosen", counted)
    known: rounds.Known = {}
    for first, second, step in ((0, 4096, 64), (1 << 40, 64, 64), (0, 4096, 32)):
        commands = part(first, second, step)
        before = len(searched)
        rolled = roll(commands, 5, known)
        assert unrolled(rolled, 5) == commands
        assert len(rolled) == 3
        assert (len(searched) > before) == (first == 0)
