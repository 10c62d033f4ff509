"""RUNs on blocks of codes: what they wait for, and what waits for them."""

import numpy as np
import pytest

from sim.cycles import delays
from sim.cycles.code_blocks import CodeBlockTimes
from sim.cycles.memory import memory_rate
from sim.cycles.port import Port as MemoryPort
from sim.cycles.results import ResultsTime
from sim.cycles.timeline import Timeline
from sim.cycles.writer import Writer
from sim.machine.commands import Command, Opcode
from sim.machine.ports import RECORDS, Port, record_bytes
from sim.machine.presets import PRESETS
from sim.machine.records import pack_records
from sim.machine.settings import Phase

TINY, FULL = PRESETS["tiny"], PRESETS["full"]


class Program:
    """Commands on a timeline, memory on the chip."""

    def __init__(self) -> None:
        self.timeline = Timeline(TINY, memory_rate("onchip", TINY), np.zeros(0, np.uint8))

    def send(self, port: Port, **fields: int) -> None:
        payload = pack_records(port, TINY, fields)[: record_bytes(port)]
        self.timeline.do(Command(Opcode.SEND, port, payload=payload))

    def read(self, port: Port, beats: int, address: int = 0) -> None:
        self.timeline.do(Command(Opcode.READ, port, address, (beats, 1, 1, 1)))

    def write(self, port: Port, beats: int, address: int = 0) -> None:
        self.timeline.do(Command(Opcode.WRITE, port, address, counts=(beats, 1, 1, 1)))

    def block(self, words: int, *, filled: bool = True) -> None:
        self.send(Port.CODE_BLOCK, words=words)
        if filled:
            self.read(Port.CODES, words)

    def command(self, queries: int, **fields: int) -> None:
        record = {field.name: 1 for field in RECORDS[Port.ARRAY_COMMAND]} | {"phase": Phase.DENSE}
        record |= {"codebook": 0, "split": 0, "release": 0, "word": 0, "last": 0}
        self.send(Port.ARRAY_COMMAND, **(record | {"queries": queries} | fields))
        self.read(Port.SCALE, 1)
        self.read(Port.BIAS, 2)
        self.read(Port.WEIGHTS, 8)

    def end(self) -> float:
        self.timeline.do(Command(Opcode.WAIT))
        self.timeline.do(Command(Opcode.STOP))
        return self.timeline.end()


def passes(count: int, queries: int) -> float:
    """Cycles of passes that read one block again and again, and of results of the last."""
    program = Program()
    program.block(queries)
    program.write(Port.RESULTS, queries)
    for number in range(count):
        program.command(queries, last=int(number == count - 1))
    return program.end()


def test_a_block_is_read_again_without_memory() -> None:
    load = 17 + 1 + delays.LOAD_EXTRA
    assert (passes(12, 64) - passes(4, 64)) / 8 == pytest.approx(load + 64 + 1, abs=1)


def blocks(count: int) -> float:
    """Cycles of blocks of 100 words, each given back by its one pass of 40 tokens."""
    program = Program()
    for _ in range(count):
        program.block(100)
        program.command(40, release=1)
    program.write(Port.RESULTS, 1)
    program.block(100)
    program.command(1, last=1)
    return program.end()


def test_a_run_waits_for_its_words() -> None:
    # 100 beats of codes and 11 of operands come through the one reader, in six commands of two cycles more each.
    assert (blocks(12) - blocks(4)) / 8 == pytest.approx(100 + 11 + 12, abs=3)


def test_codes_may_come_behind_the_command() -> None:
    program = Program()
    program.write(Port.RESULTS, 50)
    program.command(50, last=1)
    program.block(50, filled=False)
    assert program.timeline.array.passes == 0
    program.read(Port.CODES, 49)
    assert program.timeline.array.passes == 0
    program.read(Port.CODES, 1)
    assert program.timeline.array.passes == 1


def test_a_third_block_waits_for_a_half() -> None:
    def program(release: int) -> float:
        one = Program()
        one.block(64)
        one.block(64)
        one.write(Port.RESULTS, 1)
        one.command(60, release=release)
        for number in range(9):
            one.command(60, release=int(not release and number == 8))
        one.block(64)
        one.command(1, last=1)
        return one.end()

    # The block is read ten times before it is given back, or while the next one is.
    assert program(0) == pytest.approx(program(1) + 64, abs=12)


def test_a_run_is_not_over_before_its_last_word() -> None:
    def program(end: float) -> float:
        one = Program()
        one.command(60)
        one.block(60, filled=False)
        one.timeline.array.codes(60, 300, end)
        one.write(Port.RESULTS, 60)
        one.command(60, last=1)
        return one.end()

    # Whoever brings the codes is not the reader, which goes on.
    assert program(5000) - program(1000) == pytest.approx(4000, abs=1)


@pytest.mark.parametrize(("near", "pace"), [(False, 12.0), (True, 4.0)])
def test_results_of_several_beats_slow_a_run_down(near: bool, pace: float) -> None:
    writer, memory = Writer(), MemoryPort(3.0)
    writer.begin(Port.RESULTS, 4 * 512, 0, near=near)
    results = ResultsTime(FULL, 3.0, writer=writer, memory=memory, routes=())
    assert results.passed(512, 1000, 1511) == pytest.approx(1000 + (512 - delays.RESULTS_DEPTH) * pace, abs=1)
    # Whoever reads meanwhile, reads behind them.
    latency = delays.Delays(FULL).result
    assert memory.read(1000, 300) == pytest.approx(1300 if near else 1000 + 512 * pace + 300, abs=1)
    assert memory.fetched(1000, 1) == pytest.approx(1003, abs=1)
    assert memory.fetched(1000 + latency + 1, 1) > (1003 if near else 1000 + 512 * pace)
    writer.begin(Port.RESULTS, 4, 0, near=near)
    assert results.passed(1, 2000, 2000) == max(2000, 1000 + (513 - delays.RESULTS_DEPTH) * pace)


def chain(tokens: int, *, routed: bool) -> float:
    """Cycles of tokens of 8 beats from a norm to codes of 2 beats: by routes, or by near memory and a READ."""
    program = Program()
    words, near = 2 * tokens, TINY.memory_bytes
    program.send(Port.ENCODER_PLANES, planes=1)
    program.send(Port.NORM_COMMAND, tokens=tokens, channels=64, shift=0, epsilon=1)
    if routed:
        program.send(Port.ROUTE, source=Port.NORMED, on=1, beats=8)
        program.send(Port.ROUTE, source=Port.ENCODED, on=1, beats=0)
        program.block(words, filled=False)
        program.read(Port.NORM_VALUES, 8 * tokens)
    else:
        program.write(Port.NORMED, 8 * tokens, near)
        program.read(Port.NORM_VALUES, 8 * tokens)
        program.timeline.do(Command(Opcode.WAIT))
        program.write(Port.ENCODED, words, near)
        program.read(Port.ENCODER_VALUES, 8 * tokens, near)
        program.timeline.do(Command(Opcode.WAIT))
        program.block(words)
    program.write(Port.RESULTS, 1)
    program.command(1, last=1, word=words - 1)
    return program.end()


def test_a_route_takes_the_time_of_the_slowest_unit() -> None:
    norm = delays.Delays(TINY).norm_token(16)
    assert (chain(40, routed=True) - chain(20, routed=True)) / 20 == pytest.approx(norm, abs=0.5)
    assert chain(40, routed=False) > chain(40, routed=True) + 40 * 8


def test_short_tokens_wait_in_front_of_the_packer() -> None:
    def program(tokens: int) -> tuple[float, float]:
        one = Program()
        one.send(Port.ENCODER_PLANES, planes=1)
        one.send(Port.ROUTE, source=Port.ENCODED, on=1, beats=0)
        one.block(2 * tokens, filled=False)
        one.timeline.do(Command(Opcode.READ, Port.ENCODER_VALUES, counts=(1, tokens, 1, 1), token_dims=1))
        one.write(Port.COPIED, 1)
        one.read(Port.COPY, 1)
        reader = one.end()
        one.write(Port.RESULTS, 1)
        one.command(1, last=1, word=2 * tokens - 1)
        return reader, one.end()

    few, held, many = (program(tokens) for tokens in (1, delays.ENCODER_HOLDS, delays.ENCODER_HOLDS + 50))
    tile = delays.Delays(TINY).packer_tile
    assert held[0] - few[0] == pytest.approx(delays.ENCODER_HOLDS - 1, abs=3)
    assert many[0] - held[0] == pytest.approx(50 * tile, abs=delays.ENCODER_HOLDS)
    assert many[1] - held[1] == pytest.approx(50 * tile, abs=1)


def test_activation_of_results_takes_no_memory_of_its_own() -> None:
    def program(*, routed: bool, target: int = 0) -> tuple[float, int]:
        one = Program()
        if routed:
            one.send(Port.ROUTE, source=Port.RESULTS, on=1, beats=0)
        one.block(64)
        one.write(Port.ACTIVATED if routed else Port.RESULTS, 64, target)
        one.command(64, last=1)
        return one.end(), one.timeline.array.passes

    assert program(routed=True)[0] - program(routed=False)[0] <= delays.ROUTE + delays.ACTIVATION + 3
    assert program(routed=True)[1] == 1


def test_words_of_pieces() -> None:
    times = CodeBlockTimes(FULL)
    assert times.free() == 0
    times.begin()
    assert times.word(0) is None
    times.fill(6, 100, 110)
    times.fill(2, 200, 202)
    assert times.word(0) == pytest.approx(100 + 10 / 3 + delays.CODES)
    assert times.word(2) == 110 + delays.CODES
    assert times.word(3) == 202 + delays.CODES
    assert times.word(4) is None
    times.give_back(300)
    for end in (400, 500):
        times.begin()
        times.fill(8, 0, 1)
        assert times.free() == end - 100
        times.give_back(end)
    assert times.free() == 400
