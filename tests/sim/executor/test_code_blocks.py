"""Blocks of codes: how they are filled, read and given back, and what the array would wait for in vain."""

from collections.abc import Callable

import numpy as np
import pytest

from sim.contract.codebook import affine_codebook
from sim.contract.linear import finish
from sim.contract.nibbles import pack_nibbles
from sim.executor import MachineError
from sim.machine.commands import COMMAND_BYTES
from sim.machine.faults import Fault
from sim.machine.ports import Port
from sim.machine.settings import Phase
from tests.sim.executor.assembler import Assembler

ROWS, COLUMNS = 32, 8
WORDS, SCALE = 12, 700


class Passes:
    """DENSE passes of one LOAD on blocks of random codes."""

    def __init__(self) -> None:
        self.a, self.random = Assembler(), np.random.default_rng(1)
        self.weights = self.random.integers(-8, 8, (ROWS, COLUMNS)).astype(np.int8)
        self.places: list[tuple[int, np.ndarray]] = []
        self.a.codebooks(affine_codebook())

    def block(self) -> np.ndarray:
        self.a.send(Port.CODE_BLOCK, WORDS)
        return self.random.integers(0, 16, (WORDS, ROWS)).astype(np.int8)

    def codes(self, codes: np.ndarray) -> None:
        self.a.read(Port.CODES, pack_nibbles(codes.reshape(1, -1)))

    def command(self, queries: int, **fields: int) -> None:
        self.a.array(Phase.DENSE, queries=queries, **fields)
        self.a.read(Port.SCALE, np.full(COLUMNS, SCALE, np.uint16))
        self.a.read(Port.BIAS, np.zeros(COLUMNS, np.int32))
        self.a.read(Port.WEIGHTS, pack_nibbles(self.weights.reshape(1, -1)))

    def results(self, codes: np.ndarray) -> None:
        """A WRITE, and what it must take: those of levels -8..7 on the weights."""
        sums = (codes.astype(np.int64) - 8) @ self.weights
        self.places.append((self.a.write(Port.RESULTS, len(codes) * COLUMNS * 2), sums))

    def check(self) -> None:
        self.a.wait()
        self.a.run()
        for place, sums in self.places:
            assert np.array_equal(self.a.get(place, sums.shape), finish(sums * SCALE))


@pytest.mark.parametrize(("word", "pitch", "queries"), [(0, 1, 12), (2, 3, 4), (11, 0, 5), (1, 10, 2)])
def test_words_in_any_order_as_often_as_it_likes(word: int, pitch: int, queries: int) -> None:
    p = Passes()
    codes = p.block()
    p.codes(codes[:5])
    p.codes(codes[5:])
    for release in (0, 0, 1):
        p.results(codes[[word + n * pitch for n in range(queries)]])
        p.command(queries, word=word, pitch=pitch, release=release)
    p.check()


def test_the_next_block_comes_while_the_first_is_read() -> None:
    p = Passes()
    first = p.block()
    p.codes(first)
    p.results(first)
    p.command(WORDS, pitch=1)
    second = p.block()
    p.codes(second[:7])
    p.results(first[:1])
    p.command(1, release=1)
    # The third half does not exist, but the first one is free again.
    p.codes(second[7:])
    third = p.block()
    p.codes(third)
    for codes in (second, third):
        p.results(codes)
        p.command(WORDS, pitch=1, release=1)
    p.check()


@pytest.mark.parametrize("began", [False, True])
def test_a_command_comes_before_its_codes(began: bool) -> None:
    p = Passes()
    codes = p.random.integers(0, 16, (WORDS, ROWS)).astype(np.int8)

    def begin() -> None:
        p.a.send(Port.CODE_BLOCK, WORDS)
        p.codes(codes[:4])

    if began:
        begin()
    p.results(codes[:11:2])
    p.command(6, pitch=2, release=1)
    if not began:
        begin()
    p.codes(codes[4:11])
    p.codes(codes[11:])
    p.check()


def test_a_block_is_given_back_before_it_is_complete() -> None:
    p = Passes()
    first = p.block()
    p.codes(first[:5])
    p.results(first[:5])
    p.command(5, pitch=1, release=1)
    p.codes(first[5:])
    second = p.block()
    p.codes(second)
    p.results(second)
    p.command(WORDS, pitch=1, release=1)
    p.check()


def third_block(p: Passes) -> None:
    for _ in range(2):
        p.codes(p.block())
    p.block()


def block_behind_one_that_is_not_complete(p: Passes) -> None:
    p.codes(p.block()[1:])
    p.block()


def more_codes_than_the_block_holds(p: Passes) -> None:
    p.codes(np.concatenate([p.block()] * 2)[: WORDS + 1])


def codes_without_a_block(p: Passes) -> None:
    p.codes(np.zeros((1, ROWS), np.int8))


def command_while_one_waits_for_codes(p: Passes) -> None:
    p.results(np.zeros((1, ROWS)))
    p.command(1)
    p.a.array(Phase.DENSE)


def operand_while_a_command_waits_for_codes(p: Passes) -> None:
    p.results(np.zeros((1, ROWS)))
    p.command(1)
    p.a.read(Port.SCALE, np.zeros(COLUMNS, np.uint16))


@pytest.mark.parametrize(
    "program",
    [
        third_block,
        block_behind_one_that_is_not_complete,
        more_codes_than_the_block_holds,
        codes_without_a_block,
        command_while_one_waits_for_codes,
        operand_while_a_command_waits_for_codes,
    ],
)
def test_where_the_array_would_wait_for_ever(program: Callable[[Passes], None]) -> None:
    assert stopped(program) == Fault.WATCHDOG


def stopped(program: Callable[[Passes], None]) -> Fault | None:
    """The fault of the last command."""
    p = Passes()
    program(p)
    with pytest.raises(MachineError) as caught:
        p.a.executor().run()
    assert caught.value.where == COMMAND_BYTES * (len(p.a.commands) - 1), caught.value
    return caught.value.fault


def word_beyond_the_block(p: Passes) -> None:
    p.codes(p.block())
    p.results(np.zeros((4, ROWS)))
    p.command(4, word=1, pitch=4)


def block_larger_than_a_half(p: Passes) -> None:
    p.a.send(Port.CODE_BLOCK, p.a.preset.block_words + 1)


def mix_that_gives_back_a_block(p: Passes) -> None:
    p.a.array(Phase.MIX, keys=8, release=1)


@pytest.mark.parametrize(
    "program",
    [
        word_beyond_the_block,
        block_larger_than_a_half,
        mix_that_gives_back_a_block,
    ],
)
def test_what_the_array_would_not_notice(program: Callable[[Passes], None]) -> None:
    assert stopped(program) is None


@pytest.mark.parametrize(("part", "text"), [(WORDS, "1 blocks of codes"), (WORDS - 1, "lacks 1 beats of CODES")])
def test_blocks_are_left_at_the_end(part: int, text: str) -> None:
    p = Passes()
    p.codes(p.block()[:part])
    with pytest.raises(MachineError, match=text):
        p.a.run()
