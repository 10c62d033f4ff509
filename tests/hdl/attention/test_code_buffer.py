# amaranth: UnusedElaboratable=no

"""Words of blocks: every way of reading them, both halves, blocks given back early, slow writers and readers."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hdl.array.geometry import CODE_BITS
from hdl.attention.code_buffer import CodeBuffer
from tests.hdl.attention.bench import play

ROWS, WORDS, TOKENS = 8, 16, 12
BEATS = {"a beat": 32, "two beats": 16, "four beats": 8}

PRESSURES: dict[str, dict[str, Any]] = {
    "flowing": {},
    "gaps": {"gap": 0.6},
    "slow reader": {"stall": 0.8},
    "both": {"gap": 0.4, "stall": 0.5},
    "held": {"hold": 300},
}

SETS: list[tuple[int, list[tuple[int, int, int]]]] = [
    (16, [(0, 1, 12), (4, 1, 12), (15, 0, 1), (0, 1, 12)]),
    (12, [(0, 2, 6), (1, 2, 6), (0, 2, 6), (1, 2, 6)]),
    (1, [(0, 0, 1)]),
    (1, [(0, 0, 3)]),
    # Given back long before it is complete, by a read of a single word, with the next one read right behind.
    (16, [(2, 0, 1)]),
    # Given back in the cycle in which its last beat comes.
    (16, [(13, 0, 1)]),
    (16, [(0, 5, 4), (15, 0, 2), (3, 3, 5)]),
    (2, [(1, 0, 1), (0, 1, 2)]),
    (15, [(0, 1, 1)]),
    (16, [(0, 1, 2), (14, 1, 2)]),
]
"""Words of a block, and (word, pitch, queries) of its reads."""


def stimulus(
    sets: list[tuple[int, list[tuple[int, int, int]]]], beat_bits: int
) -> tuple[dict[str, list[Any]], NDArray[np.int64]]:
    """Payloads by port, and the words (n, ROWS) to come out."""
    rng = np.random.default_rng(5)
    blocks = [rng.integers(0, 16, (words, ROWS)) for words, _ in sets]
    reads = [
        {"word": word, "pitch": pitch, "queries": queries, "release": int(number == len(of_block) - 1)}
        for _, of_block in sets
        for number, (word, pitch, queries) in enumerate(of_block)
    ]
    beats = np.concatenate(blocks).reshape(-1, beat_bits // CODE_BITS).tolist()
    sources: dict[str, list[Any]] = {"i_block": [len(block) for block in blocks], "i_codes": beats, "i_read": reads}
    return sources, np.concatenate(list(CodeBuffer.model(blocks, reads)))


def run(sets: list[tuple[int, list[tuple[int, int, int]]]], beat_bits: int, **pressure: Any) -> list[int]:
    """Plays sets and compares every word; returns the cycles of the words."""
    sources, wanted = stimulus(sets, beat_bits)
    unit = CodeBuffer(rows=ROWS, code_beat_bits=beat_bits, block_words=WORDS, token_depth=TOKENS)
    taken, cycles = play(unit, sources, outputs=len(wanted), **pressure)
    assert np.array_equal([list(word) for word in taken], wanted)
    return cycles


@pytest.mark.parametrize("beats", BEATS)
@pytest.mark.parametrize("pressure", PRESSURES)
def test_words_of_every_kind_of_read(pressure: str, beats: str) -> None:
    order = np.random.default_rng(6).permutation(len(SETS))
    run(SETS + [SETS[n] for n in order], BEATS[beats], seed=7, **PRESSURES[pressure])


def test_a_word_per_cycle_from_read_to_read() -> None:
    # The first words come while the block is written, a word per cycle as well.
    cycles = run([(16, [(0, 1, 12), (0, 1, 2), (3, 2, 6), (4, 1, 12), (0, 0, 2)])], BEATS["a beat"])
    assert cycles[-1] - cycles[0] == len(cycles) - 1 == 33


def test_the_latency_of_a_word_that_is_waited_for_and_of_a_read() -> None:
    unit = CodeBuffer(rows=ROWS, code_beat_bits=32, block_words=WORDS, token_depth=TOKENS)
    # The block begins in cycle 0, so its word 14 is taken in cycle 15.
    sources, _ = stimulus([(16, [(14, 0, 1)])], 32)
    assert play(unit, sources, outputs=1)[1] == [15 + unit.latency - 1]
    # Whole before the read is given, which is in cycle 17.
    read = {"i_read": sources.pop("i_read")}
    assert play(unit, read, outputs=1, before=sources)[1] == [17 + unit.latency]


def test_reads_that_no_block_answers_have_no_model() -> None:
    block = np.zeros((4, ROWS), np.int64)
    read = {"word": 1, "pitch": 2, "queries": 2, "release": 1}
    with pytest.raises(ValueError, match="word 5 is read of a block of 4 words"):
        list(CodeBuffer.model([block], [{**read, "queries": 3}]))
    with pytest.raises(ValueError, match="a block that never begins"):
        list(CodeBuffer.model([block], [read, read]))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"rows": 7}, "rows=7 must be even, in 2..64; nearest valid value: 6"),
        ({"code_beat_bits": 32}, "code_beat_bits=32 must be whole bytes, .* rows=64 .*; nearest valid value: 64"),
        ({"block_words": 1000}, r"block_words=1000 must be a power of two in 2..65536; nearest valid value: 1024"),
        ({"token_depth": 0}, r"token_depth=0 must be in 1..512; nearest valid value: 1"),
    ],
)
def test_parameters_out_of_range_are_refused(parameters: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CodeBuffer(**parameters)
