# amaranth: UnusedElaboratable=no

"""Row tiles from rows of codes: shapes, repeats, nibbles, two halves, slow readers and writers."""

from typing import Any

import numpy as np
import pytest

from hdl.array.geometry import ArrayGeometry
from hdl.attention.code_gather import CodeGather
from hdl.attention.geometry import AttentionGeometry
from tests.hdl.attention.bench import play

GEOMETRY = AttentionGeometry(
    array=ArrayGeometry(rows=16, columns=8, loader_rows=8, token_depth=32), lanes=4, keys=64, code_words=32
)
SHAPES = [(5, 16, 1, 1, 1), (6, 17, 2, 2, 2), (1, 1, 1, 2, 2), (8, 64, 3, 1, 2), (32, 9, 1, 2, 1), (1, 48, 2, 2, 2)]
"""(queries, keys, tiles, planes, runs) of sets that fit 32 words."""

PRESSURES: dict[str, dict[str, Any]] = {
    "flowing": {},
    "gaps": {"gap": 0.4},
    "slow reader": {"stall": 0.8},
    "both": {"gap": 0.3, "stall": 0.5},
    "held": {"hold": 200},
}


def run(geometry: AttentionGeometry, shapes: list[tuple[int, int, int, int, int]], **pressure: Any) -> list[int]:
    """Plays sets of random codes and compares every word; returns the cycles of the words."""
    rng = np.random.default_rng(5)
    lanes, rows = geometry.lanes, geometry.array.rows
    nibbles = rng.integers(0, 16, (16, geometry.score_planes))
    reads, words, expected, valid = [], [], [], []
    for queries, keys, tiles, planes, runs in shapes:
        codes = rng.integers(0, 16, (queries, keys))
        groups = -(-keys // rows)
        reads.append({"queries": queries, "tiles": tiles, "groups": groups, "planes": planes, "runs": runs})
        for row in codes:
            padded = np.pad(row, (0, -keys % lanes)).reshape(-1, lanes).tolist()
            words += [{"code": word, "last": int(n == len(padded) - 1)} for n, word in enumerate(padded)]
        expected.append(CodeGather.model(codes, nibbles, rows=rows, tiles=tiles, planes=planes, runs=runs))
        present = np.arange(groups * rows).reshape(groups, 1, rows) < keys
        valid.append(np.tile(np.repeat(present, planes * runs * queries, axis=1).reshape(-1, rows), (tiles, 1)))
    wanted, mask = np.concatenate(expected), np.concatenate(valid)
    levels = [{"code": code, "nibbles": row.tolist()} for code, row in enumerate(nibbles)]
    taken, cycles = play(
        CodeGather(geometry),
        {"i_shape": [shape[0] for shape in shapes], "i": words, "i_read": reads},
        outputs=len(wanted),
        before={"i_level": levels},
        **pressure,
    )
    found = np.array([list(word) for word in taken])
    assert np.array_equal(np.where(mask, found, 0), wanted)
    return cycles


@pytest.mark.parametrize("pressure", PRESSURES)
def test_sets_of_every_shape(pressure: str) -> None:
    order = np.random.default_rng(6).permutation(len(SHAPES))
    run(GEOMETRY, [SHAPES[n] for n in order] + SHAPES, seed=7, **PRESSURES[pressure])


def test_one_word_per_cycle() -> None:
    cycles = run(GEOMETRY, [(8, 64, 3, 2, 2)])
    assert cycles[-1] - cycles[0] == len(cycles) - 1 == 8 * 4 * 3 * 2 * 2 - 1


def test_a_half_is_filled_in_the_cycle_that_empties_the_other() -> None:
    # Five words to read, in which the next set's 3, 4, 5 words and its announcement come in.
    short = [(1, keys, 1, 1, 1) for keys in (12, 16, 20)]
    run(GEOMETRY, [shape for one in short for shape in ((5, 16, 1, 1, 1), one)])


def test_three_nibbles_and_several_block_rams() -> None:
    array = ArrayGeometry(rows=32, columns=8, loader_rows=8, token_depth=32)
    geometry = AttentionGeometry(array=array, lanes=8, keys=128, code_words=1100, score_planes=3)
    run(geometry, [(7, 100, 1, 2, 3), (2, 33, 2, 1, 3), (9, 64, 1, 1, 2)], gap=0.2, stall=0.2)
    assert CodeGather(geometry).latency == CodeGather(GEOMETRY).latency + 1
