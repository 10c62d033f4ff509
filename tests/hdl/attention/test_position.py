# amaranth: UnusedElaboratable=no

"""Position biases bit by bit: no bias, tables, vectors of queries, odd sizes, blocks of queries, stalls, cycles."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hdl.attention.position import PositionUnit
from sim.contract.attention import DecomposedBias, StaticBias
from sim.machine.settings import PositionKind
from tests.hdl.attention.bench import play


@dataclass(frozen=True)
class Work:
    """A command, its values, and the biases (queries, keys)."""

    command: dict[str, int]
    beats: list[list[int]]
    biases: NDArray[np.int32]


def padded(values: NDArray[np.int16], lanes: int, rng: np.random.Generator) -> list[list[int]]:
    """Beats of the lines (n, length), rubbish behind each."""
    count, length = values.shape
    words = rng.integers(-(1 << 15), 1 << 15, (count, -(-length // lanes) * lanes))
    words[:, :length] = values
    return words.reshape(-1, lanes).tolist()


def work_of(
    rng: np.random.Generator, kind: int, shape: tuple[int, int], first: int, queries: int, *, lanes: int
) -> Work:
    rows, columns = shape
    command = {"kind": kind, "rows": rows, "columns": columns, "first_query": first, "queries": queries}
    numbers: dict[str, Any] = {name: command[name] for name in ("rows", "columns", "first_query", "queries")}

    def values(*sizes: int) -> NDArray[np.int16]:
        return rng.integers(-(1 << 15), 1 << 15, sizes).astype(np.int16)

    if kind == PositionKind.NONE:
        return Work(command, [], PositionUnit.model(kind, **numbers))
    if kind == PositionKind.STATIC:
        table = values(rows, columns)
        return Work(command, padded(table, lanes, rng), PositionUnit.model(kind, **numbers, by_row=table))
    by_row, by_column = values(queries, 2 * rows - 1), values(queries, 2 * columns - 1)
    beats = [
        beat
        for row, column in zip(by_row, by_column, strict=True)
        for beat in padded(row[None], lanes, rng) + padded(column[None], lanes, rng)
    ]
    return Work(command, beats, PositionUnit.model(kind, **numbers, by_row=by_row, by_column=by_column))


def run(works: list[Work], *, lanes: int, keys: int = 4096, window: int = 32, **pressure: Any) -> list[int]:
    """Plays commands and compares every bias; returns the cycles of the words."""
    words = [-(-work.biases.shape[1] // lanes) for work in works]
    count = sum(n * len(work.biases) for n, work in zip(words, works, strict=True))
    sources: dict[str, list[Any]] = {
        "i_command": [work.command for work in works],
        "i": [beat for work in works for beat in work.beats],
    }
    taken, cycles = play(PositionUnit(lanes=lanes, keys=keys, window=window), sources, outputs=count, **pressure)
    found = np.array([list(word) for word in taken])
    start = 0
    for number, (length, work) in enumerate(zip(words, works, strict=True)):
        stop = start + length * len(work.biases)
        rows = found[start:stop].reshape(len(work.biases), -1)[:, : work.biases.shape[1]]
        assert np.array_equal(rows, work.biases), f"command {number}"
        start = stop
    return cycles


NONE, STATIC, DECOMPOSED = map(int, PositionKind)
WORKS: list[tuple[int, tuple[int, int], int, int]] = [
    (STATIC, (3, 3), 0, 9),
    (DECOMPOSED, (3, 5), 4, 9),
    (NONE, (1, 200), 70, 3),
    (DECOMPOSED, (1, 1), 0, 1),
    (STATIC, (7, 7), 13, 30),
    (STATIC, (1, 2), 1, 1),
    (DECOMPOSED, (2, 1), 0, 2),
    (DECOMPOSED, (6, 13), 40, 20),
    (STATIC, (5, 1), 0, 5),
    (NONE, (3, 3), 1000, 4),
    (DECOMPOSED, (4, 4), 0, 16),
    (STATIC, (2, 11), 3, 12),
]
PRESSURES: dict[str, dict[str, Any]] = {
    "flowing": {},
    "gaps": {"gap": 0.5},
    "slow reader": {"stall": 0.7},
    "held": {"hold": 150},
}


@pytest.mark.parametrize("pressure", PRESSURES)
def test_commands_of_every_kind(pressure: str) -> None:
    rng = np.random.default_rng(1)
    run([work_of(rng, *work, lanes=4) for work in WORKS], lanes=4, seed=2, **PRESSURES[pressure])


@pytest.mark.parametrize("lanes", [2, 8, 16, 32])
def test_lanes(lanes: int) -> None:
    rng = np.random.default_rng(3)
    run([work_of(rng, *work, lanes=lanes) for work in WORKS], lanes=lanes, keys=256)


@pytest.mark.parametrize(("window", "side"), [(32, 32), (64, 40), (4, 4)])
def test_tables_up_to_the_window(window: int, side: int) -> None:
    rng = np.random.default_rng(4)
    last = (side * side - 2, 2)
    works = [(STATIC, (side, side), 0, 2), (STATIC, (side, side), *last), (DECOMPOSED, (side, side), *last)]
    run([work_of(rng, *work, lanes=8) for work in works], lanes=8, window=window)


def test_the_largest_map() -> None:
    rng = np.random.default_rng(5)
    works = [(DECOMPOSED, (64, 64), first, 2) for first in (0, 63, 4094)]
    run([work_of(rng, *work, lanes=16) for work in works], lanes=16)


def test_the_model_is_that_of_the_contracts_biases() -> None:
    rng = np.random.default_rng(6)
    static = StaticBias(rng.integers(-900, 900, (1, 25)).astype(np.int16), 5)
    q = rng.integers(-128, 128, (1, 1, 7, 4)).astype(np.float32)
    numbers: dict[str, Any] = {"rows": 5, "columns": 5, "first_query": 9, "queries": 7}
    table = static.table.reshape(5, 5)
    assert np.array_equal(PositionUnit.model(STATIC, **numbers, by_row=table), static.of(q[0], 9)[0])
    decomposed = DecomposedBias(
        rel_rows=rng.integers(-128, 120, (1, 9, 4)).astype(np.int8),
        rel_columns=rng.integers(-128, 120, (1, 9, 4)).astype(np.int8),
        row_scale=np.array([900], np.uint16),
        column_scale=np.array([700], np.uint16),
        rows=5,
        columns=5,
    )
    vectors = {
        "by_row": decomposed._products(q, decomposed.rel_rows, decomposed.row_scale)[0, 0],
        "by_column": decomposed._products(q, decomposed.rel_columns, decomposed.column_scale)[0, 0],
    }
    assert np.array_equal(PositionUnit.model(DECOMPOSED, **numbers, **vectors), decomposed.of(q, 9)[0, 0])


def test_cycles_and_latency() -> None:
    rng = np.random.default_rng(7)
    # A table: preparation of max(8 + 3, 14, 0) + 3 cycles is hidden behind 14 * 7 cycles of loading.
    cycles = run([work_of(rng, STATIC, (14, 14), 0, 20, lanes=8)], lanes=8)
    assert cycles[-1] - cycles[0] == len(cycles) - 1 == 20 * 25 - 1
    # The command is taken in cycle 0, the first value in cycle 1.
    assert cycles[0] == 14 * 7 + PositionUnit.LATENCY
    # Vectors of 14 + 14 words against rows of 25; rows of 128 words against vectors of 64.
    for side, interval in ((14, 28), (32, 128)):
        cycles = run([work_of(rng, DECOMPOSED, (side, side), 0, 6, lanes=8)], lanes=8)
        words = -(-side * side // 8)
        assert [cycles[n * words] - cycles[0] for n in range(6)] == [n * interval for n in range(6)]
        assert cycles[0] == 2 * side + PositionUnit.LATENCY


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lanes": 1}, r"lanes=1 must be one of \(2, 4, 8, 16, 32\); nearest valid value: 2"),
        ({"keys": 5000}, r"keys=5000 must be in 1..4096; nearest valid value: 4096"),
        ({"window": 14}, r"window=14 must be one of \(2, 4, 8, 16, 32, 64\); nearest valid value: 16"),
    ],
)
def test_parameters_out_of_range_are_refused(change: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PositionUnit(**change)
