# amaranth: UnusedElaboratable=no

"""The attention bench, with the unit's model in place of its simulation."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from benchmarks import attention as bench
from sim.bench.attention_bench import SIMULATED, AttentionRun, CompiledAttention
from sim.bench.attention_cases import synthetic_attention, synthetic_operands
from sim.bench.attention_schedule import Plan
from sim.bench.player import BackPressure
from sim.contract.errors import UserError
from sim.golden import GoldenModel
from sim.golden.parameters import Executed


def modelled(compiled: CompiledAttention, work: Plan, *_: Any, **__: Any) -> AttentionRun:
    """What the unit's model makes of a plan, in the cycles of the formula."""
    cycles = np.array(work.predicted_cycles(SIMULATED))
    return AttentionRun(work.modelled(SIMULATED), cycles, np.zeros((0, 2), np.int64), int(cycles.sum()))


def small_case(queries: int = 9) -> bench.Case:
    generator = np.random.default_rng(1)
    operation = synthetic_attention(generator, heads=2, width=64, side=3, position="decomposed")
    codes, result = operation.run(*synthetic_operands(generator, operation, windows=1, queries=9, keys=9))
    return bench.Case("small", operation, codes, result.values[:, :queries])


def test_a_case_is_compared_value_by_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "run_plan", modelled)
    compiled = cast(CompiledAttention, SimpleNamespace(unit=SimpleNamespace(geometry=SIMULATED)))
    case = small_case(queries=5)
    figures, _ = bench.simulate(compiled, case, BackPressure(), seed=0)
    assert (figures["differing_values"], figures["outputs_compared"]) == (0, 5 * 128)
    wrong = case.expected.copy()
    wrong[0, 2, 77] ^= 6
    figures, _ = bench.simulate(compiled, replace(case, expected=wrong), BackPressure(), seed=0)
    assert (figures["differing_values"], figures["differing_bits"]) == (1, 2)


def test_utilisation_by_formula_counts_codes_and_multiplications() -> None:
    case = small_case()
    figures = bench.by_formula(case, SIMULATED)
    # 9 keys are two column tiles of 8 and one row tile of 32; 64 channels are two row tiles and eight column tiles;
    # two nibbles each make two LOADs and four RUNs of 9 queries. Two heads.
    assert figures["loads"] == 2 * (2 * 2 * 2 + 8 * 1 * 2)
    assert figures["code_cycles"] == 2 * figures["loads"] * 9
    assert figures["multiply_accumulates"] == 2 * 2 * 9 * 9 * 64 * 4
    assert figures["array_utilisation"] == figures["code_cycles"] / figures["cycles"]
    assert figures["softmax_cycles"] == 2 * 9 * 3


def test_the_full_array_meets_the_bar_of_windows() -> None:
    case = bench.synthetic_case("window", heads=1, side=14, queries=196, seed=0)
    figures = bench.by_formula(case, bench.FULL)
    assert figures["array_utilisation"] >= 0.75
    assert figures["softmax_share"] < 1


def test_the_middle_window_of_an_attention_is_taken() -> None:
    generator = np.random.default_rng(2)
    operation = synthetic_attention(generator, heads=1, width=8, side=3, position="static")
    q, k, v = synthetic_operands(generator, operation, windows=5, queries=9, keys=9)
    codes, output = operation.run(q, k, v)
    case = bench.window_case(Executed("attend", operation, (q, k, v), codes, output))
    assert case.name == "attend, window 2"
    assert np.array_equal(case.expected[0], output.values[2])
    assert np.array_equal(case.codes["k"][0], codes["k"][2])


def test_a_model_without_large_windows_is_refused() -> None:
    operation = synthetic_attention(np.random.default_rng(3), heads=1, width=8, side=7, position="static")
    model: Any = SimpleNamespace(
        parameters=SimpleNamespace(operations={"a.attend": operation}), encoder_layers=lambda: ["a.attend"]
    )
    with pytest.raises(UserError, match="no attention over windows of 196 tokens"):
        bench.window_attention(cast(GoldenModel, model))


def test_a_missing_folder_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Any
) -> None:
    monkeypatch.setattr("sys.argv", ["attention", str(tmp_path / "none"), "--json", str(tmp_path / "out.json")])
    assert bench.main() == 1
    assert "error: " in capsys.readouterr().err
