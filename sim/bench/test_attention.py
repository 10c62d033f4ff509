"""The attention unit's RTL against the integer contract: small attentions, back-pressure, faults that must show."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sim.bench.attention_bench import CompiledAttention, compile_attention, run_plan
from sim.bench.attention_cases import synthetic_attention, synthetic_operands
from sim.bench.attention_schedule import Plan, plan
from sim.bench.player import BackPressure, Flip

PRESSURES = {
    "flowing": BackPressure(),
    "stalling": BackPressure(gap=0.25, stall=0.25),
    "slow reader": BackPressure(stall=0.9),
}
CASES: dict[str, dict[str, Any]] = {
    "windows of 49 tokens": {"heads": 3, "width": 12, "side": 7, "position": "static"},
    "two row tiles": {"heads": 2, "width": 40, "side": 4, "position": "decomposed"},
    "4-bit operands": {"heads": 2, "width": 8, "side": 5, "stationary_bits": 4, "q_levels": np.arange(-8, 8)},
}


@pytest.fixture(scope="module")
def compiled() -> CompiledAttention:
    return compile_attention()


def work_of(compiled: CompiledAttention, case: str, *, split: bool = False) -> tuple[Plan, NDArray[np.int16]]:
    """The plan of a case, and the contract's result (windows, tokens, H * D)."""
    generator = np.random.default_rng(1)
    operation = synthetic_attention(generator, **CASES[case])
    tokens = CASES[case]["side"] ** 2
    operands = synthetic_operands(generator, operation, windows=2, queries=tokens, keys=tokens)
    codes, expected = operation.run(*operands)
    return plan(operation, codes, compiled.unit.geometry, split=split), expected.values


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("pressure", PRESSURES)
def test_attentions_equal_the_contract_in_every_bit(compiled: CompiledAttention, case: str, pressure: str) -> None:
    work, expected = work_of(compiled, case)
    run = run_plan(compiled, work, PRESSURES[pressure], seed=2)
    result = np.zeros_like(expected)
    work.assemble(run.transfers, result)
    assert np.count_nonzero(result != expected) == 0
    assert len(np.unique(result)) > 100


@pytest.mark.parametrize("split", [False, True], ids=["one LOAD for two RUNs", "a LOAD for every RUN"])
def test_cycles_are_those_of_the_formula(compiled: CompiledAttention, split: bool) -> None:
    work, expected = work_of(compiled, "two row tiles", split=split)
    run = run_plan(compiled, work)
    result = np.zeros_like(expected)
    work.assemble(run.transfers, result)
    assert np.array_equal(result, expected)
    predicted = work.predicted_cycles(compiled.unit.geometry)
    # The first two SCORES and the last two MIXes wait for rows on their way; in between nobody waits.
    assert run.command_cycles[2:-2].tolist() == predicted[2:-2]


@pytest.mark.parametrize(
    ("signal", "after", "transfers"),
    [("reorder/next_row", "i_position", 300), ("gather/group", "o", 49), ("reads/first", "i_codes", 200)],
)
def test_a_flipped_bit_shows(compiled: CompiledAttention, signal: str, after: str, transfers: int) -> None:
    work, expected = work_of(compiled, "windows of 49 tokens")
    flip = Flip(signal, 1, after=after, transfers=transfers)
    result = np.zeros_like(expected)
    work.assemble(run_plan(compiled, work, flips=[flip]).transfers, result)
    assert np.count_nonzero(result != expected) > 0
