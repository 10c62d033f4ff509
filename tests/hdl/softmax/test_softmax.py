# amaranth: UnusedElaboratable=no

"""The softmax unit against its model: random and directed rows, gaps and stalls, cycles by the formulas."""

from typing import Any

import numpy as np
import pytest
from amaranth.sim import Simulator
from numpy.typing import NDArray

from hdl.softmax.geometry import OFFSET, ROWS_UNDER_WAY
from hdl.softmax.search import threshold_words
from hdl.softmax.softmax import Softmax
from sim.contract.softmax import LARGEST_DISTANCE, log_thresholds
from tests.hdl.softmax.bench import Row, check, play, random_rows
from tests.hdl.streams import receive, send

LOWEST, HIGHEST = -(1 << 15), (1 << 15) - 1


def uniform(code_bits: int, clip: float = 0.3) -> NDArray[np.int32]:
    """Thresholds of a uniform grid up to the probability `clip`."""
    steps = (1 << code_bits) - 1
    return log_thresholds((np.arange(steps) + 0.5) / steps * clip)


def everywhere(code_bits: int) -> NDArray[np.int32]:
    """Thresholds from one step of log2 to beyond every score, so that small probabilities have codes too."""
    steps = (1 << code_bits) - 1
    return np.linspace(18000, 1, steps).astype(np.int32)


@pytest.mark.parametrize(
    ("lanes", "keys", "code_bits", "bias"),
    [(1, 40, 4, 1), (2, 9, 6, 0), (4, 196, 4, 1), (8, 64, 8, 1), (16, 196, 5, 0), (32, 70, 4, 1)],
)
@pytest.mark.parametrize("pressure", [(0.0, 0.0), (0.4, 0.0), (0.0, 0.6), (0.3, 0.3)])
def test_random_rows(lanes: int, keys: int, code_bits: int, bias: int, pressure: tuple[float, float]) -> None:
    unit = Softmax(lanes=lanes, keys=keys, code_bits=code_bits, bias=bias)
    rng = np.random.default_rng([lanes, keys, code_bits, *(int(10 * part) for part in pressure)])
    lengths = [keys, 1, 1, keys, *rng.integers(1, keys + 1, 3).tolist(), *[1] * ROWS_UNDER_WAY, keys]
    seen: set[int] = set()
    for thresholds, spread in ((uniform(code_bits), 1000), (everywhere(code_bits), 4000)):
        rows = random_rows(unit, rng, lengths[:7] if seen else lengths, spread)
        outcome = play(unit, rows, thresholds, rng=rng, gap=pressure[0], stall=pressure[1])
        check(rows, thresholds, outcome)
        seen |= set(np.concatenate(outcome.codes).tolist())
    assert len(seen) > 12


def directed_rows(unit: Softmax) -> dict[str, Row]:
    """Rows at the ends of what the contract allows."""
    keys = unit.geometry.keys
    step = np.arange(keys)

    def row(logits: NDArray[np.int64], bias: NDArray[np.int64] | int = 0) -> Row:
        return Row.of(unit, np.asarray(logits, np.int64), np.broadcast_to(np.asarray(bias, np.int64), logits.shape))

    return {
        "all equal": row(np.full(keys, 77)),
        "all equal at the bottom": row(np.full(keys, LOWEST), 2 * LOWEST),
        "all equal at the top": row(np.full(keys, HIGHEST), 2 * HIGHEST),
        "one dominant": row(np.where(step == keys // 2, 20000, -5000)),
        "one dominant by the whole range": row(
            np.where(step == keys - 1, HIGHEST, LOWEST), np.where(step == keys - 1, 2 * HIGHEST, 2 * LOWEST)
        ),
        "one far below": row(np.where(step == 0, LOWEST, HIGHEST), np.where(step == 0, 2 * LOWEST, 2 * HIGHEST)),
        "a single key": row(np.array([-123])),
        "ascending": row(step * 97 - 16000),
        "descending": row(16000 - step * 97),
        "every halving and its neighbours": row(HIGHEST - np.maximum(512 * (step // 3) + step % 3 - 1, 0)),
        "whole halvings and their neighbours on every lane": row(
            HIGHEST
            - np.resize(np.repeat([0, 1, 511, 512, 513, 8191, 8192, 8193, 16383, 16384], unit.geometry.lanes), keys)
        ),
        "around the largest distance": row(
            np.where(step == 0, 0, -LARGEST_DISTANCE - 3 + step % 7), np.where(step == 0, 1, 0)
        ),
    }


@pytest.mark.parametrize("code_bits", [4, 8])
def test_directed_rows(code_bits: int) -> None:
    unit = Softmax(lanes=4, keys=196, code_bits=code_bits)
    rows = list(directed_rows(unit).values())
    rng = np.random.default_rng(3)
    for thresholds in (everywhere(code_bits), uniform(code_bits)):
        check(rows, thresholds, play(unit, rows, thresholds, rng=rng))


def test_the_directed_rows_reach_the_ends() -> None:
    rows = directed_rows(Softmax(lanes=4, keys=196))
    totals = {name: row.logits + (0 if row.bias is None else row.bias) for name, row in rows.items()}
    assert max(int(total.max()) for total in totals.values()) == 3 * HIGHEST
    assert min(int(total.min()) for total in totals.values()) == 3 * LOWEST > LARGEST_DISTANCE - OFFSET
    halvings = totals["every halving and its neighbours"]
    distances = halvings.max() - halvings
    assert set((distances // 512).tolist()) >= set(range(33))
    around = totals["around the largest distance"]
    assert {-1, 0, 1} <= set((around.max() - around - LARGEST_DISTANCE).tolist())


@pytest.mark.parametrize("thresholds", ["equal", "negative", "huge", "few"])
def test_odd_thresholds(thresholds: str) -> None:
    """Ties, values that no score reaches, and fewer thresholds than the unit has room for."""
    sets = {
        "equal": np.repeat([3000, 2000, 500], 5),
        "negative": np.linspace(2000, -40000, 15),
        "huge": np.array([1 << 30, 1 << 20, 40000, 32768, 32767, 16385, 16384, 16383, 9000, 800, 512, 2, 1, 0, -1]),
        "few": np.linspace(4000, 100, 15),
    }
    chosen = sets[thresholds].astype(np.int32)
    unit = Softmax(lanes=2, keys=20, code_bits=5 if thresholds == "few" else 4, bias=0)
    rng = np.random.default_rng(5)
    rows = random_rows(unit, rng, [20, 1, 7, 20, 13], 3000)
    check(rows, chosen, play(unit, rows, chosen, rng=rng))


def test_thresholds_are_replaced_between_rows() -> None:
    """What is written last counts, also where all codes had other thresholds before, in one simulation."""
    unit = Softmax(lanes=2, keys=16, code_bits=6, bias=0)
    rng = np.random.default_rng(6)
    rows = random_rows(unit, rng, [16, 16])
    words = [word for row in rows for word in row.payloads(2, rng)[0]]
    sets = [everywhere(6), uniform(6), everywhere(6) // 3]
    found: list[list[int]] = []

    async def bench(ctx: Any) -> None:
        for thresholds in sets:
            table = enumerate(threshold_words(thresholds, 6).tolist(), 1)
            load = [{"code": code, "threshold": threshold} for code, threshold in table]
            await send(ctx, unit.i_threshold, load, rng=rng)
            await send(ctx, unit.i_logits, words, rng=rng)
            taken = await receive(ctx, unit.o, len(words), rng=rng)
            found.append([code for word in taken for code in word.code])

    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    expected = [[Softmax.model(row.logits, thresholds) for row in rows] for thresholds in sets]
    assert np.array_equal(found, np.array(expected).reshape(len(sets), -1))
    assert len(np.unique(found, axis=0)) == len(sets)


def test_a_score_on_a_threshold_has_the_higher_code() -> None:
    """The score of one of n equal keys is log2(n) and one step, exactly."""
    unit = Softmax(lanes=4, keys=64, bias=0)
    rows = [Row.of(unit, np.full(keys, 5)) for keys in (1, 2, 8, 64)]
    thresholds = np.array([3074, 3073, 3072, 1538, 1537, 1536, 514, 513, 512, 3, 2, 1, 0, 0, 0], np.int32)
    outcome = play(unit, rows, thresholds, rng=np.random.default_rng(0))
    check(rows, thresholds, outcome)
    assert [codes[0] for codes in outcome.codes] == [12, 8, 5, 2]


def test_hundreds_of_short_rows_wait_for_a_slow_reader() -> None:
    """More rows than the three queues hold together: each must stop the phase before it."""
    unit = Softmax(lanes=1, keys=200, bias=0)
    rng = np.random.default_rng(7)
    rows = random_rows(unit, rng, [1] * 6 * ROWS_UNDER_WAY + [3, 1, 200])
    check(rows, everywhere(4), play(unit, rows, everywhere(4), rng=rng, stall=0.9))


def test_lanes_without_a_key_count_for_nothing() -> None:
    unit = Softmax(lanes=8, keys=48)
    rng = np.random.default_rng(8)
    rows = []
    for share in (0.05, 0.3, 0.7):
        present = rng.random(48) < share
        present[rng.integers(48)] = True
        keys = int(present.sum())
        rows.append(Row(rng.integers(-3000, 3000, keys), rng.integers(-900, 900, keys), present))
    # A row in which every key is as low as can be, beside lanes whose noise is higher.
    rows.append(Row(np.full(2, LOWEST), np.full(2, 2 * LOWEST), np.arange(16) % 8 == 3))
    check(rows, everywhere(4), play(unit, rows, everywhere(4), rng=rng, gap=0.2, stall=0.2))


def test_a_row_without_last_ends_when_it_is_full() -> None:
    unit = Softmax(lanes=2, keys=10, bias=0)
    rng = np.random.default_rng(9)
    rows = random_rows(unit, rng, [10, 10, 4, 10])
    rows[0].marked = rows[1].marked = False
    check(rows, uniform(4), play(unit, rows, uniform(4), rng=rng))


def test_4096_keys() -> None:
    unit = Softmax(lanes=16)
    assert unit.geometry.keys == 4096
    rng = np.random.default_rng(10)
    rows = random_rows(unit, rng, [4096, 4096, 4095, 4081])
    rows.append(Row.of(unit, np.full(4096, HIGHEST), np.full(4096, 2 * HIGHEST)))
    thresholds = everywhere(4)
    outcome = play(unit, rows, thresholds, rng=rng)
    check(rows, thresholds, outcome)
    assert outcome.left[0] - outcome.entered[0] == unit.latency(4096) == 2 * 256 + 8 + 4 + 27
    assert np.diff(outcome.entered).max() == 1
    assert outcome.left[-1] - outcome.left[0] == 5 * 256 - 1


@pytest.mark.parametrize(
    ("lanes", "keys", "code_bits"),
    [(1, 1, 4), (1, 60, 5), (2, 60, 6), (4, 196, 4), (8, 7, 8), (16, 196, 4), (32, 32, 8)],
)
def test_cycles_are_those_of_the_formulas(lanes: int, keys: int, code_bits: int) -> None:
    unit = Softmax(lanes=lanes, keys=keys, code_bits=code_bits)
    rng = np.random.default_rng(11)
    count = 4 if keys > 32 else 40
    rows = random_rows(unit, rng, [keys] * count)
    outcome = play(unit, rows, uniform(code_bits), rng=rng)
    words = unit.cycles(keys)
    assert words == -(-keys // lanes)
    assert outcome.left[0] - outcome.entered[0] == unit.latency(keys)
    search = {4: 4, 5: 5, 6: 8, 8: 14}[code_bits]
    assert unit.latency(keys) == 2 * words + 2 * (lanes.bit_length() - 1) + search + 27
    for cycles in (outcome.entered, outcome.left):
        assert np.array_equal(np.diff(cycles), np.ones(words * count - 1))


def test_memories_of_more_than_one_bank() -> None:
    unit = Softmax(lanes=1, keys=2040, bias=0)
    assert unit.geometry.depth == 4096
    rng = np.random.default_rng(12)
    rows = random_rows(unit, rng, [2040, 2040])
    outcome = play(unit, rows, everywhere(4), rng=rng)
    check(rows, everywhere(4), outcome)
    assert outcome.left[0] - outcome.entered[0] == unit.latency(2040) == 2 * 2040 + 4 + 27 + 2
    assert np.diff(outcome.entered).max() == np.diff(outcome.left).max() == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lanes": 3}, r"lanes=3 must be one of \(1, 2, 4, 8, 16, 32\); nearest valid value: 2"),
        ({"lanes": 64}, "lanes=64 must be one of .*; nearest valid value: 32"),
        ({"keys": 0}, r"keys=0 must be in 1..4096; nearest valid value: 1"),
        ({"keys": 5000}, r"keys=5000 must be in 1..4096; nearest valid value: 4096"),
        ({"code_bits": 7}, r"code_bits=7 must be one of \(4, 5, 6, 8\); nearest valid value: 6"),
        ({"bias": 2}, "bias=2 must be 0 or 1; nearest valid value: 1"),
    ],
)
def test_parameters_out_of_range_are_refused(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Softmax(**arguments)
