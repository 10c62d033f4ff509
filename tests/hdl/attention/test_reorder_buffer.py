# amaranth: UnusedElaboratable=no

"""Rows from column tiles: every shape of a set, sets behind one another, slow readers and writers."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hdl.array.geometry import ArrayGeometry
from hdl.attention.geometry import AttentionGeometry
from hdl.attention.reorder_buffer import ReorderBuffer
from tests.hdl.attention.bench import play

GEOMETRY = AttentionGeometry(
    array=ArrayGeometry(rows=16, columns=8, loader_rows=8, token_depth=32), lanes=4, keys=64, logit_words=64
)
SETS = [(5, 8), (6, 17), (1, 1), (3, 64), (1, 9), (32, 8), (32, 3), (2, 8), (1, 8), (1, 4), (7, 33), (4, 12)]
"""(queries, keys) of sets that fit 64 words."""

PRESSURES: dict[str, dict[str, Any]] = {
    "flowing": {},
    "gaps": {"gap": 0.4},
    "slow reader": {"stall": 0.85},
    "both": {"gap": 0.3, "stall": 0.5},
    "held": {"hold": 150},
}


def words_of(rng: np.random.Generator, sets: list[tuple[int, int]]) -> list[NDArray[np.int16]]:
    """Words (tiles, queries, columns) of every set."""
    columns = GEOMETRY.array.columns
    return [rng.integers(-(1 << 15), 1 << 15, (-(-k // columns), n, columns)).astype(np.int16) for n, k in sets]


def run(
    geometry: AttentionGeometry, sets: list[tuple[int, int]], words: list[NDArray[np.int16]], **pressure: Any
) -> list[int]:
    """Plays the sets and compares every row; returns the cycles of the words."""
    lanes, columns = geometry.lanes, geometry.array.columns
    shapes = [{"queries": n, "keys": k, "tiles": -(-k // columns)} for n, k in sets]
    payloads = [word for block in words for word in block.reshape(-1, columns).tolist()]
    expected: list[tuple[list[int], int]] = []
    for (_, keys), block in zip(sets, words, strict=True):
        for row in ReorderBuffer.model(block, keys).tolist():
            expected += [(row[at : at + lanes], int(at + lanes >= keys)) for at in range(0, keys, lanes)]
    taken, cycles = play(ReorderBuffer(geometry), {"i_shape": shapes, "i": payloads}, outputs=len(expected), **pressure)
    for number, (word, (logits, last)) in enumerate(zip(taken, expected, strict=True)):
        assert (word.present, word.last) == ((1 << len(logits)) - 1, last), f"word {number}"
        assert list(word.logit)[: len(logits)] == logits, f"word {number}"
    return cycles


@pytest.mark.parametrize("pressure", PRESSURES)
def test_rows_of_every_shape(pressure: str) -> None:
    rng = np.random.default_rng(1)
    sets = [SETS[n] for n in rng.permutation(len(SETS))] + SETS
    run(GEOMETRY, sets, words_of(rng, sets), seed=2, **PRESSURES[pressure])


def test_one_word_per_cycle_and_the_latency() -> None:
    rng = np.random.default_rng(3)
    sets = [(4, 64)]
    cycles = run(GEOMETRY, sets, words_of(rng, sets))
    assert cycles[-1] - cycles[0] == len(cycles) - 1
    # The shape is taken in cycle 0, word n in cycle n + 1; the first row is complete with the first word of tile 7.
    assert cycles[0] - (7 * 4 + 1) == ReorderBuffer(GEOMETRY).latency


def test_a_deep_buffer_of_several_block_rams() -> None:
    geometry = AttentionGeometry(
        array=ArrayGeometry(rows=16, columns=8, loader_rows=8, token_depth=32), lanes=8, keys=64, logit_words=2500
    )
    rng = np.random.default_rng(4)
    sets = [(9, 50), (3, 64)]
    run(geometry, sets, words_of(rng, sets), gap=0.2, stall=0.2)
    assert ReorderBuffer(geometry).latency == ReorderBuffer(GEOMETRY).latency + 1
