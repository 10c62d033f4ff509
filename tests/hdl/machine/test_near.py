# amaranth: UnusedElaboratable=no

"""Near memory behind the addresses of external memory: READs and WRITEs of both, order, waits, limits, throughput."""

from typing import Any

import numpy as np
import pytest

from sim.machine.commands import Command
from sim.machine.faults import Fault
from sim.machine.ports import Port
from tests.hdl.machine.rig import BEAT, STOP, WAIT, copied, image, read, run, write

SIZE, NEAR = 8192, 1024
AT = 1024
"""Where DATA lies; what is written to external memory lies from 2048 on."""

SHOWN = SIZE - NEAR
"""Where a program leaves a copy of near memory."""

DATA = np.random.default_rng(1).integers(0, 256, NEAR, dtype=np.uint8).tobytes()
NOISE: dict[str, Any] = {"stall": 0.4, "latency": 7, "seed": 5}

FILL = write(Port.COPIED, SIZE, (64,)), read(Port.COPY, AT, (64,))
SHOW = write(Port.COPIED, SHOWN, (64,)), read(Port.COPY, SIZE, (64,))

Move = tuple[Command, Command]


def after(moves: list[Move], content: bytes) -> bytes:
    """External memory when every move has been done, one after the other."""
    memory = content.ljust(SIZE + NEAR, b"\0")
    for writing, reading in moves:
        memory = copied(memory, reading, writing)
    return memory[:SIZE]


@pytest.mark.parametrize("noise", [{}, NOISE])
@pytest.mark.parametrize(
    "move",
    [
        (write(Port.COPIED, 2048, (64,)), read(Port.COPY, SIZE, (64,))),
        (write(Port.COPIED, 2048, (48,)), read(Port.COPY, SIZE - 8 * BEAT, (16, 3), (16,))),
        (write(Port.COPIED, 2048, (48,)), read(Port.COPY, AT, (1, 2, 24), (SIZE - AT, 16))),
        (write(Port.COPIED, SIZE - 9 * BEAT, (40,)), read(Port.COPY, AT, (40,))),
        (write(Port.COPIED, 2048, (1, 2, 20), (SIZE - 2048, 16)), read(Port.COPY, SIZE + 512, (20, 2))),
    ],
    ids=["near", "border", "in turns", "written across", "written in turns"],
)
def test_one_move_of_both_memories(move: Move, noise: dict[str, Any]) -> None:
    program = [*FILL, WAIT, *move, WAIT, *SHOW, STOP]
    content = image(program, DATA, AT)
    outcome = run(content, size=SIZE, near=NEAR, **noise)
    assert outcome.fault == Fault.NONE
    assert outcome.memory == after([FILL, move, SHOW], content)


@pytest.mark.parametrize("noise", [{}, NOISE])
def test_writes_and_reads_beside_each_other(noise: dict[str, Any]) -> None:
    """WRITEs of both memories wait their turn while READs of both go on; one WAIT covers them all."""
    moves = [
        (write(Port.COPIED, 2048, (20,)), read(Port.COPY, SIZE + 64, (20,))),
        (write(Port.COPIED, SIZE + 512, (16,)), read(Port.COPY, AT + 256, (16,))),
        (write(Port.COPIED, 3072, (7,)), read(Port.COPY, AT, (7,))),
        (write(Port.COPIED, SIZE + 960, (4,)), read(Port.COPY, SIZE, (4,))),
    ]
    program = [*FILL, WAIT, *(command for move in moves for command in move), WAIT, *SHOW, STOP]
    content = image(program, DATA, AT)
    outcome = run(content, size=SIZE, near=NEAR, **noise)
    assert outcome.fault == Fault.NONE
    assert outcome.memory == after([FILL, *moves, SHOW], content)


@pytest.mark.parametrize(
    ("kind", "command"),
    [
        (Fault.RANGE, read(Port.COPY, SIZE + NEAR, (1,))),
        (Fault.RANGE, read(Port.COPY, SIZE + NEAR - 32, (3,))),
        (Fault.RANGE, write(Port.COPIED, SIZE + NEAR, (1,))),
        (Fault.PROTECTED, write(Port.COPIED, AT, (1,))),
        (Fault.PROTECTED, write(Port.COPIED, SIZE, (1, 2), (-BEAT,))),
    ],
)
def test_what_lies_behind_near_memory_or_below_writable(kind: Fault, command: Command) -> None:
    """All of external memory is protected, near memory never is, whatever `writable` says."""
    outcome = run(image([*FILL, WAIT, command, *FILL, STOP], DATA, AT), size=SIZE, near=NEAR, writable=SIZE + NEAR)
    assert (outcome.fault, outcome.where) == (kind, 96)
    assert outcome.memory[2048:] == bytes(SIZE - 2048)


def test_sizes_that_are_no_multiples_of_each_other() -> None:
    """An address in near memory then is a difference, not some of the bits."""
    size, near = 4096 + 3 * BEAT, 19 * BEAT
    moves = write(Port.COPIED, size, (19,)), read(Port.COPY, AT, (19,)), WAIT
    shown = write(Port.COPIED, 2048, (19,)), read(Port.COPY, size, (19,))
    outcome = run(image([*moves, *shown, STOP], DATA, AT), size=size, near=near)
    assert outcome.fault == Fault.NONE
    assert outcome.memory[2048:] == DATA[:near].ljust(size - 2048, b"\0")


def test_near_memory_holds_no_commands() -> None:
    outcome = run(image([WAIT] * (SIZE // 32), b"", SIZE), size=SIZE, near=NEAR)
    assert (outcome.fault, outcome.where) == (Fault.RANGE, SIZE)


@pytest.mark.parametrize(
    ("source", "sink", "cycles"),
    [(SIZE, SIZE + 512, 1), (AT, SIZE, 1), (SIZE, 2048, 1), (AT, 2048, 2)],
    ids=["near to near", "in", "out", "external"],
)
def test_cycles_per_beat(source: int, sink: int, cycles: int) -> None:
    """A beat per cycle wherever near memory has a part in it: reads and writes go on at the same time."""
    short, long = (
        run(
            image([write(Port.COPIED, sink, (8, n)), read(Port.COPY, source, (8, n)), STOP], DATA, AT),
            size=SIZE,
            near=NEAR,
        )
        for n in (4, 34)
    )
    assert (long.cycles - short.cycles) == cycles * 8 * 30
