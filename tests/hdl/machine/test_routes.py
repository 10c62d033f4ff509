# amaranth: UnusedElaboratable=no

"""Routes: beats of outputs at inputs instead of in memory, marked token by token, on and off, with back-pressure."""

from typing import Any

import numpy as np
import pytest

from sim.machine.commands import Command, Opcode
from sim.machine.faults import Fault
from sim.machine.ports import Port
from sim.machine.presets import PRESETS
from sim.machine.records import pack_records
from tests.hdl.machine.rig import (
    BEAT,
    COPIED,
    COPY,
    DELAYED,
    HALF,
    LONG,
    PAIRED,
    QUEUE,
    SINK,
    SMALL,
    STOP,
    WAIT,
    WIDE,
    Outcome,
    image,
    read,
    run,
    write,
)

AT = 1024
DATA = np.random.default_rng(1).integers(0, 256, 1024, dtype=np.uint8).tobytes()
NOISE: dict[str, Any] = {"stall": 0.3, "refuse": 0.4, "latency": 7, "seed": 5}


def route(source: int, on: bool, beats: int = 0) -> Command:
    record = pack_records(Port.ROUTE, PRESETS["tiny"], {"source": source, "on": on, "beats": beats})
    return Command(Opcode.SEND, Port.ROUTE, payload=record)


def beats(first: int, count: int, token: int = 0) -> list[tuple[bytes, bool]]:
    """Beats of DATA at SINK, `last` with every token-th."""
    return [
        (DATA[BEAT * (first + number) :][:BEAT], token > 0 and number % token == token - 1) for number in range(count)
    ]


def run_program(program: list[Command], **options: Any) -> Outcome:
    return run(image(program, DATA, AT), **options)


@pytest.mark.parametrize("noise", [{}, NOISE])
@pytest.mark.parametrize("token", [0, 1, 3, 4])
def test_tokens_of_every_length(token: int, noise: dict[str, Any]) -> None:
    outcome = run_program([route(COPIED, True, token), read(COPY, AT, (12,)), read(SMALL, AT, (1,)), STOP], **noise)
    assert outcome.fault == Fault.NONE
    assert outcome.payloads[SINK] == beats(0, 12, token)[: len(outcome.payloads[SINK])]
    assert len(outcome.payloads[SINK]) > 8
    assert outcome.memory[2048:] == bytes(2048)


@pytest.mark.parametrize("noise", [{}, NOISE])
def test_on_and_off_and_on(noise: dict[str, Any]) -> None:
    """Beats pass one unit on their way to another; WAIT for what the other has written tells when the way is free."""
    program = [
        *(route(DELAYED, True, 7), write(COPIED, 2048, (20,)), read(LONG, AT, (20,)), WAIT),
        *(route(DELAYED, False), write(DELAYED, 2560, (5,)), read(LONG, AT + 512, (5,))),
        *(write(COPIED, 2688, (3,)), read(COPY, AT + 640, (3,)), WAIT),
        *(route(DELAYED, True), write(COPIED, 3072, (4,)), read(LONG, AT + 768, (4,)), WAIT),
    ]
    outcome = run_program([*program, STOP], **noise)
    assert outcome.fault == Fault.NONE
    expected = bytearray(2048)
    for at, source, count in ((0, 0, 20), (512, 512, 5), (640, 640, 3), (1024, 768, 4)):
        expected[at : at + BEAT * count] = DATA[source : source + BEAT * count]
    assert outcome.memory[2048:] == bytes(expected)
    assert outcome.payloads[SINK] == []


@pytest.mark.parametrize("noise", [{}, NOISE])
def test_two_routes_one_behind_the_other(noise: dict[str, Any]) -> None:
    program = [route(DELAYED, True, 2), route(COPIED, True, 5), read(LONG, AT, (40,)), read(SMALL, AT, (40,))]
    outcome = run_program([*program, STOP], **noise)
    assert outcome.fault == Fault.NONE
    assert outcome.payloads[SINK] == beats(0, 40, 5)[: len(outcome.payloads[SINK])]
    assert len(outcome.payloads[SINK]) > 30


def test_two_outputs_take_turns_at_one_input() -> None:
    """A token that is not complete is forgotten; between the routes the input takes what READs give it."""
    rest = read(SMALL, AT, (30,))
    program = [
        *(route(COPIED, True, 4), read(COPY, AT, (6,)), rest, route(COPIED, False)),
        *(read(SINK, AT + 96, (2, 2), (32,), token_dims=1), rest),
        *(route(PAIRED, True, 2), read(HALF, AT + 160, (4,)), rest, route(PAIRED, False)),
        *(write(COPIED, 2048, (1,)), read(COPY, AT, (1,)), read(SINK, AT + 224, (1,)), WAIT),
    ]
    outcome = run_program([*program, STOP])
    assert outcome.fault == Fault.NONE
    given = [*beats(6, 4, 2), *beats(10, 4, 2), *beats(14, 1)]
    assert outcome.payloads[SINK] == [*beats(0, 6, 4), *given]
    assert outcome.memory[2048:2064] == DATA[:BEAT]


def test_a_beat_per_cycle() -> None:
    short, long = (
        run_program([route(DELAYED, True), write(COPIED, 2048, (n,)), read(LONG, AT, (n,)), STOP], near=0).cycles
        for n in (10, 50)
    )
    # External memory takes each beat once and gives it once.
    assert long - short <= 2 * 40


def test_a_program_begins_without_routes() -> None:
    program = [write(COPIED, 2048, (3,)), read(COPY, AT, (3,)), WAIT, route(COPIED, True), STOP]
    outcome = run_program(program, runs=2)
    assert outcome.fault == Fault.NONE
    assert outcome.memory[2048:2096] == DATA[:48]


def test_routed_beats_are_progress() -> None:
    """All has been read, and only the beats on their way tell that the machine is not stuck."""
    options: dict[str, Any] = {"patience": 200, "refuse": 0.95, "wide_from": 1000, "seed": 3}
    program = [route(DELAYED, True), route(COPIED, True), read(LONG, AT, (QUEUE,)), read(WIDE, AT, (4,)), STOP]
    outcome = run_program(program, **options)
    assert outcome.fault == Fault.NONE
    assert len(outcome.payloads[SINK]) > 40


@pytest.mark.parametrize(
    ("kind", "command"),
    [
        (Fault.FIELD, route(LONG, True)),
        (Fault.FIELD, route(0, False)),
        (Fault.FIELD, Command(Opcode.SEND, Port.ROUTE, payload=route(COPIED, True).payload * 2)),
        (Fault.PORT, read(Port.ROUTE, AT, (1,))),
    ],
)
def test_routes_that_do_not_exist(kind: Fault, command: Command) -> None:
    outcome = run_program([WAIT, command, STOP])
    assert (outcome.fault, outcome.where) == (kind, 32)


@pytest.mark.parametrize(
    "program",
    [
        [route(COPIED, True), write(COPIED, 2048, (1,)), read(COPY, AT, (1,)), WAIT, STOP],
        [route(COPIED, True), read(SINK, AT, (2,)), WAIT, STOP],
    ],
    ids=["output", "input"],
)
def test_a_port_that_is_led_away_gives_and_takes_nothing(program: list[Command]) -> None:
    outcome = run_program(program)
    assert outcome.fault == Fault.WATCHDOG
    assert len(outcome.payloads[SINK]) == sum(command.port == COPY for command in program)
    assert outcome.memory[2048:] == bytes(2048)
