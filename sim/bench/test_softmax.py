"""The softmax unit's RTL against the integer contract: windows, rows of 4,096 keys, and faults that must show."""

import numpy as np
import pytest
from numpy.typing import NDArray

from hdl.softmax.softmax import Softmax
from sim.bench.player import BackPressure, Flip
from sim.bench.softmax_bench import run_rows
from sim.bench.unit import CompiledUnit, compile_unit
from sim.contract.softmax import log_thresholds

Rows = list[tuple[NDArray[np.int64], NDArray[np.int64]]]

PRESSURES = {
    "flowing": BackPressure(),
    "stalling": BackPressure(gap=0.25, stall=0.25),
    "slow reader": BackPressure(stall=0.8),
}
VISIBLE = [("softmax.to_codes", "fact"), ("softmax.row_maximum", "maximum"), ("softmax.search", "middle")]


@pytest.fixture(scope="module", params=[(4, 4), (16, 8)], ids=["4 lanes, 4 bits", "16 lanes, 8 bits"])
def compiled(request: pytest.FixtureRequest) -> CompiledUnit[Softmax]:
    lanes, code_bits = request.param
    return compile_unit(Softmax(lanes=lanes, code_bits=code_bits), "softmax", visible=VISIBLE)


def thresholds_of(compiled: CompiledUnit[Softmax], clip: float = 0.5, alpha: float = 2000.0) -> NDArray[np.int32]:
    """A logarithmic grid of probabilities."""
    steps = (1 << compiled.unit.geometry.code_bits) - 1
    return log_thresholds(np.expm1(np.log1p(alpha * clip) * (np.arange(steps) + 0.5) / steps) / alpha)


def random_rows(lengths: list[int], seed: int) -> Rows:
    """Rows between flat and sharp, with biases of up to the same size."""
    rng = np.random.default_rng(seed)
    rows = []
    for keys in lengths:
        spread = int(rng.choice([50, 600, 2000, 8000]))
        rows.append((rng.normal(0, spread, (2, keys)).clip(-(1 << 15), (1 << 15) - 1)).astype(np.int64))
    return [(logits, bias) for logits, bias in rows]


def expect_equal(compiled: CompiledUnit[Softmax], rows: Rows, thresholds: NDArray[np.int32], codes: list) -> None:
    for number, ((logits, bias), found) in enumerate(zip(rows, codes, strict=True)):
        expected = compiled.unit.model(logits, thresholds, bias)
        assert np.count_nonzero(found != expected) == 0, f"row {number}"


@pytest.mark.parametrize("pressure", PRESSURES)
def test_windows_equal_the_contract_in_every_bit(compiled: CompiledUnit[Softmax], pressure: str) -> None:
    rows, thresholds = random_rows([196] * 60, seed=1), thresholds_of(compiled)
    run = run_rows(compiled, rows, thresholds, PRESSURES[pressure], seed=2)
    expect_equal(compiled, rows, thresholds, run.codes)
    assert len(np.unique(np.concatenate(run.codes))) > 14
    if pressure == "flowing":
        words = 60 * compiled.unit.cycles(196)
        assert run.left[0] - run.entered[0] == compiled.unit.latency(196)
        assert run.entered[-1] - run.entered[0] == run.left[-1] - run.left[0] == words - 1


@pytest.mark.parametrize("pressure", ["flowing", "stalling"])
def test_rows_of_4096_keys(compiled: CompiledUnit[Softmax], pressure: str) -> None:
    rows, thresholds = random_rows([4096] * 6, seed=3), thresholds_of(compiled, clip=0.05, alpha=1e5)
    rows.append((np.full(4096, (1 << 15) - 1), np.full(4096, (1 << 16) - 2)))
    rows.append((np.arange(4096) % 17 * -4096 + (1 << 15) - 1, np.full(4096, -(1 << 16))))
    rows[-1] = (rows[-1][0].clip(-(1 << 15)), rows[-1][1])
    run = run_rows(compiled, rows, thresholds, PRESSURES[pressure], seed=4)
    expect_equal(compiled, rows, thresholds, run.codes)
    if pressure == "flowing":
        words = 8 * compiled.unit.cycles(4096)
        assert run.left[0] - run.entered[0] == compiled.unit.latency(4096)
        assert run.entered[-1] - run.entered[0] == run.left[-1] - run.left[0] == words - 1


@pytest.mark.parametrize("pressure", PRESSURES)
def test_rows_of_every_length(compiled: CompiledUnit[Softmax], pressure: str) -> None:
    rng = np.random.default_rng(5)
    lengths = [1] * 70 + list(range(1, 40)) + rng.integers(1, 700, 40).tolist() + [4096, 1, 4095, 2]
    rows, thresholds = random_rows([int(keys) for keys in rng.permutation(lengths)], seed=6), thresholds_of(compiled)
    run = run_rows(compiled, rows, thresholds, PRESSURES[pressure], seed=7)
    expect_equal(compiled, rows, thresholds, run.codes)


@pytest.mark.parametrize(
    ("signal", "mask", "delay"),
    [("to_codes/fact", 1 << 11, 20), ("row_maximum/maximum", 1 << 16, 0), ("search/middle", 1 << 11, 0)],
)
def test_a_flipped_bit_shows(compiled: CompiledUnit[Softmax], signal: str, mask: int, delay: int) -> None:
    rows, thresholds = random_rows([196] * 3, seed=8), thresholds_of(compiled)
    # With the last word on its way in, the last maximum is nearly complete; a little later the first row goes out.
    flip = Flip(signal, mask, after="i_logits", transfers=compiled.unit.cycles(196) * 3, delay=delay)
    run = run_rows(compiled, rows, thresholds, BackPressure(), flips=[flip])
    expected = [compiled.unit.model(logits, thresholds, bias) for logits, bias in rows]
    wrong = [np.count_nonzero(found != right) for found, right in zip(run.codes, expected, strict=True)]
    assert sum(wrong) > 0
