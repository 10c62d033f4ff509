"""Which constants come near where there is room for some of them, and which stay in the image."""

import pytest

from sim.compiler.builder import DATA, Builder
from sim.compiler.held_constants import constants_within
from sim.machine.commands import Command, Opcode
from sim.machine.ports import Port
from sim.machine.presets import PRESETS

TINY = PRESETS["tiny"]
BEAT = TINY.beat_bytes


def read(place: int, beats: int) -> Command:
    return Command(Opcode.READ, Port.SCALE, DATA + place, (beats, 1, 1, 1))


def test_what_is_read_most_often_comes_first() -> None:
    often, rarely, tensor = read(1024, 4), read(0, 8), Command(Opcode.READ, Port.COPY, 64, (4, 1, 1, 1))
    commands = [rarely, often, often, tensor]
    assert constants_within(commands, BEAT, 64) == ((DATA + 1024, 64),)
    assert constants_within(commands, BEAT, 191) == ((DATA + 1024, 64),)
    assert constants_within(commands, BEAT, 192) == ((DATA, 128), (DATA + 1024, 64))


def test_reads_that_overlap_come_together_or_not_at_all() -> None:
    """A copy of one of them would end within the other."""
    commands = [read(0, 8), read(64, 8)]
    assert constants_within(commands, BEAT, 128) == ()
    assert constants_within(commands, BEAT, 192) == ((DATA, 192),)


def test_constants_of_a_choice_are_forgotten() -> None:
    """Those stored before stay, and what is stored behind takes the place."""
    builder = Builder(TINY)
    before = builder.constant(b"a" * 80)
    with builder.forgetting():
        assert builder.constant(b"a" * 80) == before
        forgotten = builder.constant(b"b" * 80)
    assert builder.constant(b"c" * 80) == forgotten
    assert builder.constant(b"b" * 80) > forgotten
    image, _, _ = builder.image()
    assert [image.count(one * 80) for one in (b"a", b"b", b"c")] == [1, 1, 1]


def test_tables_are_what_the_units_hold() -> None:
    builder = Builder(TINY)
    nothing = builder.tables
    builder.codebooks([tuple(range(16))], "a layer")
    held, commands = builder.tables, len(builder.commands)
    assert held != nothing
    builder.begin_layer()
    assert builder.tables == nothing
    builder.tables = held
    builder.codebooks([tuple(range(16))], "a layer")
    assert len(builder.commands) == commands


@pytest.mark.parametrize("room", [0, 63])
def test_nothing_comes_where_there_is_no_room(room: int) -> None:
    assert constants_within([read(0, 1)], BEAT, room) == ()
