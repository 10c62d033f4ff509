# amaranth: UnusedElaboratable=no

"""Programs through fetch, reader, gearboxes and writer: copies, payloads of all sizes, order, waits, every error."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hdl.machine.gearbox import WeightsJoin, to_payloads
from sim.machine.commands import Command, Opcode
from sim.machine.faults import Fault
from sim.machine.ports import Port
from tests.hdl.machine.rig import (
    BEAT,
    HALF,
    INPUTS,
    PAIRED,
    SINK,
    SMALL,
    STOP,
    TURNED,
    WAIT,
    WEIGHTS,
    WIDE,
    beats_of,
    copied,
    image,
    read,
    run,
    write,
)

DATA = np.random.default_rng(1).integers(0, 256, 1024, dtype=np.uint8).tobytes()
AT = 1024
"""Where DATA lies; what is written lies from 2048 on."""

NOISE: dict[str, Any] = {"stall": 0.3, "refuse": 0.4, "latency": 7, "seed": 5}


LOOPS = [
    ((5, 3, 2, 2), (96, 320, -16)),
    ((30, 2, 1, 1), (0, 0, 0)),
    ((1, 4, 1, 15), (16, 0, 64)),
    ((2, 2, 3, 5), (-32, 128, 0)),
]


@pytest.mark.parametrize("noise", [{}, NOISE])
def test_copies_in_any_order(noise: dict[str, Any]) -> None:
    moves = []
    for number, (counts, strides) in enumerate(LOOPS):
        moves.append(
            (read(Port.COPY, AT + 64, counts, strides), write(Port.COPIED, 2048 + 1024 * number, (12, 5), (208,)))
        )
    again = read(Port.COPY, 2048, (8, 4), (1024,)), write(Port.COPIED, 7168, (32,))
    program = [command for reading, writing in moves for command in (writing, reading)]
    memory = image([*program, WAIT, again[1], again[0], STOP], DATA, AT).ljust(8192, b"\0")
    moves.append(again)
    outcome = run(memory, size=8192, **noise)
    for reading, writing in moves:
        memory = copied(memory, reading, writing)
    assert outcome.fault == Fault.NONE
    assert outcome.memory == memory


def payloads_of(command: Command, port_bytes: int) -> list[tuple[bytes, bool]]:
    """What a port gets of a READ of DATA: payloads, and `last` with the final one of its beat."""
    beats = [DATA[address - AT : address - AT + BEAT] for address, _ in beats_of(command)]
    marks = [last for _, last in beats_of(command)]
    payloads = to_payloads(beats, port_bytes)
    per_beat = max(BEAT // port_bytes, 1)
    flags = [
        port_bytes <= BEAT and marks[number // per_beat] and number % per_beat == per_beat - 1
        for number in range(len(payloads))
    ]
    limit = command.payloads or len(payloads)
    kept = list(zip(payloads[:limit], flags[:limit], strict=True))
    if kept and limit % per_beat and port_bytes <= BEAT:
        kept[-1] = (kept[-1][0], marks[(limit - 1) // per_beat])
    return kept


def turned(payload: bytes) -> bytes:
    nibbles = [payload[number // 2] >> 4 * (number % 2) & 15 for number in range(2 * len(payload))]
    straight = WeightsJoin.model(nibbles, 16, 8, turned=True)
    return bytes(straight[at] | straight[at + 1] << 4 for at in range(0, len(straight), 2))


@pytest.mark.parametrize("noise", [{}, NOISE])
def test_payloads_of_every_size(noise: dict[str, Any]) -> None:
    reads = [
        read(SMALL, AT, (3, 2), (64,), token_dims=1),
        read(WIDE, AT + 32, (5,)),
        read(SMALL, AT + 64, (4,), token_dims=2, payloads=11),
        read(WEIGHTS, AT, (9,)),
        read(TURNED, AT + 128, (4, 2), (128,)),
        read(WIDE, AT + 256, (2, 5), (64,), payloads=3),
        read(WEIGHTS, AT + 64, (4,), payloads=1),
        read(TURNED, AT, (12,), payloads=2),
        read(SMALL, AT + 512, (2,), payloads=1),
    ]
    sends = [Command(Opcode.SEND, Port(SMALL), payload=DATA[:6]), Command(Opcode.SEND, Port(WIDE), payload=DATA[:17])]
    program = [*reads[:4], sends[0], *reads[4:], sends[1], sends[0], STOP]
    outcome = run(image(program, DATA, AT), **noise)
    assert outcome.fault == Fault.NONE
    expected: dict[int, list[tuple[bytes, bool]]] = {SMALL: [], WIDE: [], WEIGHTS: [], SINK: []}
    for command in program[:-1]:
        port = int(command.port or 0)
        if command.opcode == Opcode.SEND:
            size = INPUTS[port]
            whole = command.payload.ljust(-(-len(command.payload) // size) * size, b"\0")
            expected[port] += [(whole[at : at + size], False) for at in range(0, len(whole), size)]
        elif port == TURNED:
            expected[WEIGHTS] += [(turned(payload), last) for payload, last in payloads_of(command, 64)]
        else:
            expected[port] += payloads_of(command, INPUTS[port])
    assert outcome.payloads == expected


@pytest.mark.parametrize("noise", [{}, NOISE])
def test_halves_become_beats(noise: dict[str, Any]) -> None:
    program = [write(PAIRED, 2048, (9,)), read(HALF, AT, (10,), payloads=18), STOP]
    outcome = run(image(program, DATA, AT), **noise)
    assert outcome.memory[2048 : 2048 + 9 * BEAT] == DATA[: 9 * BEAT]
    assert outcome.memory[2048 + 9 * BEAT :] == bytes(4096 - 2048 - 9 * BEAT)


def raw(opcode: int, port: int, **fields: int) -> bytes:
    """A command with bytes that Command refuses."""
    word = bytearray(read(Port.COPY, AT, (1,)).encode())
    word[0], word[1], word[2] = opcode, port, fields.get("size", 0)
    word[3] = fields.get("base", 0)
    for index in range(4):
        word[8 + 2 * index : 10 + 2 * index] = fields.get(f"count{index}", 1).to_bytes(2, "little")
    return bytes(word)


GOOD = [write(Port.COPIED, 2048, (4,)), read(Port.COPY, AT, (4,)), WAIT]
LATE = [write(Port.COPIED, 3072, (4,)), read(Port.COPY, AT, (4,)), STOP]


@pytest.mark.parametrize(
    ("kind", "command"),
    [
        (Fault.OPCODE, raw(0, 1)),
        (Fault.OPCODE, raw(7, 1)),
        (Fault.OPCODE, raw(255, 1)),
        (Fault.PORT, raw(1, 99)),
        (Fault.PORT, raw(1, 64)),
        (Fault.PORT, raw(2, 1)),
        (Fault.PORT, raw(2, 66)),
        (Fault.PORT, raw(3, 64, size=3)),
        (Fault.PORT, raw(3, WEIGHTS, size=3)),
        (Fault.FIELD, raw(3, SMALL, size=0)),
        (Fault.FIELD, raw(3, SMALL, size=25)),
        (Fault.FIELD, raw(1, 1, size=5)),
        (Fault.FIELD, raw(1, 1, count0=0)),
        (Fault.FIELD, raw(1, 1, base=6)),
        (Fault.FIELD, raw(2, 64, count3=0)),
        (Fault.ALIGNMENT, read(Port.COPY, AT + 8, (1,))),
        (Fault.ALIGNMENT, write(Port.COPIED, 2048 + 1, (1,))),
        (Fault.ALIGNMENT, read(Port.COPY, AT, (1, 1, 2), (0, 24))),
        (Fault.RANGE, read(Port.COPY, 4096, (1,))),
        (Fault.RANGE, read(Port.COPY, 4096 - 32, (3,))),
        (Fault.RANGE, read(Port.COPY, AT, (2, 3), (-1024,))),
        (Fault.RANGE, write(Port.COPIED, 1 << 31, (1,))),
        (Fault.PROTECTED, write(Port.COPIED, 2032, (2,))),
    ],
)
def test_error_stops_before_anything_is_written(kind: Fault, command: Command | bytes) -> None:
    outcome = run(image([*GOOD, command, *LATE], DATA, AT))
    assert (outcome.fault, outcome.where) == (kind, 32 * len(GOOD))
    assert outcome.memory[2048:3072] == DATA[:64].ljust(1024, b"\0")
    assert outcome.memory[3072:] == bytes(1024)


def test_memory_errors() -> None:
    beyond = [*GOOD, read(Port.COPY, 3000 // 16 * 16, (8,)), *LATE]
    outcome = run(image(beyond, DATA, AT), real_size=3000 // 16 * 16)
    assert (outcome.fault, outcome.where) == (Fault.MEMORY, 32 * len(GOOD))
    outcome = run(image([write(Port.COPIED, 3072, (4,)), *GOOD, *LATE], DATA, AT), real_size=3072)
    assert (outcome.fault, outcome.where) == (Fault.MEMORY, 0)
    outcome = run(DATA[:0], size=4096, real_size=16)
    assert (outcome.fault, outcome.where) == (Fault.MEMORY, 0)


def repeat(body: int, rounds: int, *steps: int) -> Command:
    a, b, c, d, e = (*steps, *[0] * (5 - len(steps)))
    return Command(Opcode.REPEAT, address=32 * body, rounds=rounds, steps=(a, b, c, d, e))


@pytest.mark.parametrize("noise", [{}, NOISE])
def test_rounds_move_the_base_registers(noise: dict[str, Any]) -> None:
    """Bodies of two, one and three commands; the last two with rounds so short that fetch has gone beyond them."""
    inner = [
        write(Port.COPIED, 2048, (3,), base=1),
        read(Port.COPY, AT + 512, (3,), base=5),
        repeat(0, 5, 64, 0, 0, 0, -48),
        write(Port.COPIED, 2560, (6,)),
        read(Port.COPY, AT + 16, (1,), base=2),
        repeat(4, 6, 0, 32),
        write(Port.COPIED, 3072, (2,), base=3),
        read(Port.COPY, AT, (1,), base=4),
        read(Port.COPY, AT, (1,), base=3),
        repeat(6, 4, 0, 0, 48, 112),
        write(Port.COPIED, 3584, (1,), base=1),
        read(Port.COPY, AT + 32, (1,), base=2),
        repeat(10, 1, 16, 16),
        STOP,
    ]
    outcome = run(image(inner, DATA, AT), **noise)
    assert outcome.fault == Fault.NONE
    expected = bytearray(2048)

    def put(at: int, source: int, beats: int) -> None:
        expected[at : at + 16 * beats] = DATA[source : source + 16 * beats]

    for index in range(5):
        put(64 * index, 512 - 48 * index, 3)
    for index in range(6):
        put(512 + 16 * index, 16 + 32 * index, 1)
    for index in range(4):
        put(1024 + 48 * index, 112 * index, 1)
        put(1024 + 48 * index + 16, 48 * index, 1)
    put(1536, 32, 1)
    assert outcome.memory[2048:] == bytes(expected)


def test_fault_in_a_later_round_tells_its_command() -> None:
    program = [*GOOD, write(Port.COPIED, 2048 + 64, (1,), base=1), read(Port.COPY, AT, (1,)), repeat(3, 9, -48), STOP]
    outcome = run(image(program, DATA, AT))
    assert (outcome.fault, outcome.where) == (Fault.PROTECTED, 32 * len(GOOD))
    program[3] = write(Port.COPIED, 2048 + 64, (1,), base=1)
    program[5] = repeat(3, 9, 8)
    outcome = run(image(program, DATA, AT))
    assert (outcome.fault, outcome.where) == (Fault.ALIGNMENT, 32 * len(GOOD))


@pytest.mark.parametrize(
    "ending",
    [
        [replace(repeat(0, 2), address=32 * 3)],
        [replace(repeat(0, 2), address=40)],
        [bytes([6, *[0] * 31])],
        [repeat(0, 2), repeat(2, 2)],
    ],
)
def test_bodies_that_do_not_exist(ending: list[Command | bytes]) -> None:
    program = [*GOOD, *ending, *LATE]
    if len(ending) == 2:  # the second encloses the first, which is done again within it
        program = [*GOOD, repeat(3 - 1, 2), repeat(2, 2), *LATE]
    outcome = run(image(program, DATA, AT))
    assert outcome.fault == Fault.FIELD
    assert outcome.where == 32 * len(GOOD)
    assert outcome.memory[3072:] == bytes(1024)


def test_program_without_end() -> None:
    outcome = run(image([WAIT] * 128, b"", 4096))
    assert (outcome.fault, outcome.where) == (Fault.RANGE, 4096)


@pytest.mark.parametrize(
    ("program", "where", "deaf"),
    [
        ([write(Port.COPIED, 2048, (5,)), read(Port.COPY, AT, (4,)), WAIT, STOP], 64, False),
        ([read(WIDE, AT, (30,)), STOP], 32, True),
        ([read(Port.COPY, AT, (4,)), *LATE[1:]], 64, False),
    ],
)
def test_watchdog(program: list[Command], where: int, deaf: bool) -> None:
    outcome = run(image(program, b"", 4096), deaf=deaf)
    assert outcome.fault == Fault.WATCHDOG
    assert outcome.where == where


def test_memory_that_dies_while_stop_waits_for_it() -> None:
    """Commands behind STOP are on their way to memory then; at whatever cycle it dies, the run ends."""
    program = image([write(Port.COPIED, 2048, (4,)), read(Port.COPY, AT, (4,)), WAIT, STOP], DATA, AT)
    cycles = run(program).cycles
    faults = {run(program, dead_from=dead).fault for dead in range(cycles - 12, cycles + 2)}
    assert faults == {Fault.NONE, Fault.WATCHDOG}


def test_what_lies_behind_stop_is_no_command() -> None:
    outcome = run(image([STOP, *LATE], DATA, AT))
    assert outcome.fault == Fault.NONE
    assert outcome.memory[2048:] == bytes(2048)
