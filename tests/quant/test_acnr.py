"""Condition number reduction against a literal implementation that decomposes the weight in every step."""

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from quant.acnr import LARGEST_CONDITION, raise_singular_values, reduce_condition_number


def with_singular_values(values: Tensor, outputs: int, inputs: int, seed: int = 0) -> Tensor:
    """A float32 weight (outputs, inputs) with random singular vectors."""
    torch.manual_seed(seed)
    left = torch.linalg.qr(torch.randn(outputs, values.numel(), dtype=torch.float64)).Q
    right = torch.linalg.qr(torch.randn(inputs, values.numel(), dtype=torch.float64)).Q
    return ((left * values.double()) @ right.T).float()


def input_errors(inputs: int, tokens: int = 500) -> Tensor:
    """Quantization errors (tokens, inputs), far stronger in some channels than in others."""
    torch.manual_seed(1)
    return torch.randn(tokens, inputs, dtype=torch.float64) * torch.logspace(-2, 1.5, inputs, dtype=torch.float64)


def moment(errors: Tensor) -> Tensor:
    return errors.T @ errors / errors.shape[0]


def raised(values: Tensor, energy: Tensor, iterations: int, pull: float = 0.003) -> Tensor:
    return raise_singular_values(values, energy, iterations=iterations, pull=pull, damping=0.001, kept_energy=0.8)


def condition(weight: Tensor) -> float:
    values = torch.linalg.svdvals(weight.double())
    return float(values[0] / values[-1])


def step_by_step(weight: Tensor, errors: Tensor, iterations: int) -> Tensor:
    """The method as it is written: a fresh decomposition, mean, and energy from all tokens in each step."""
    pull, damping, kept = 0.003, 0.001, 0.8
    current = weight.double().T
    for _ in range(iterations):
        u, s, vh = torch.linalg.svd(current, full_matrices=False)
        target = s.mean()
        total = s.square().sum()
        reached = 0.0
        new = s.clone()
        for index, value in enumerate(s):
            already_held = reached > kept * total
            reached += float(value) ** 2
            if not already_held:
                continue
            energy = (errors @ u[:, index]).square().mean()
            pulled = (value + 2 * pull * target) / (1 + 2 * pull + 2 * damping * energy)
            new[index] = max(value, pulled)
        current = (u * new) @ vh
    return current.T


@pytest.mark.parametrize(("outputs", "inputs"), [(40, 24), (24, 40), (32, 32)])
def test_equals_the_decomposition_of_every_step(outputs: int, inputs: int) -> None:
    weight = with_singular_values(torch.logspace(0.5, -3, min(outputs, inputs)), outputs, inputs)
    errors = input_errors(inputs)
    result = reduce_condition_number(weight, moment(errors).float(), iterations=60)
    literal = step_by_step(weight, errors, 60)
    assert not result.skipped
    assert result.weight.dtype == torch.float32
    torch.testing.assert_close(result.weight.double(), literal, rtol=0, atol=2e-5)
    assert float((result.weight - weight).abs().max()) > 1e-3


def test_values_that_overtake_kept_ones_change_what_is_kept() -> None:
    # A flat spectrum: 80 % of the energy reaches below the mean, where the raised values pass the kept ones.
    weight = with_singular_values(torch.cat([torch.linspace(1.2, 0.8, 23), torch.tensor([5e-3])]), 40, 24)
    errors = 0.05 * input_errors(24)
    result = reduce_condition_number(weight, moment(errors))
    literal = step_by_step(weight, errors, 200)
    torch.testing.assert_close(result.weight.double(), literal, rtol=0, atol=2e-6)


def test_one_decomposition_serves_all_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The public code decomposes the weight in every step, hours for layers of 5,120 inputs."""
    decomposed: list[int] = []
    svd, svdvals = torch.linalg.svd, torch.linalg.svdvals

    def counted(function: Any) -> Any:
        def decompose(*arguments: Any, **options: Any) -> Any:
            decomposed.append(1)
            return function(*arguments, **options)

        return decompose

    monkeypatch.setattr(torch.linalg, "svd", counted(svd))
    monkeypatch.setattr(torch.linalg, "svdvals", counted(svdvals))
    weight = with_singular_values(torch.logspace(0.5, -3, 24), 40, 24)
    result = reduce_condition_number(weight, torch.zeros(24, 24), iterations=200)
    assert result.raised > 0 and len(decomposed) == 2  # before, and the condition number after


def test_condition_numbers_are_those_of_the_given_and_the_returned_weight() -> None:
    weight = with_singular_values(torch.logspace(0, -4, 20), 30, 20)
    result = reduce_condition_number(weight, moment(0.03 * input_errors(20)))
    assert result.before == pytest.approx(condition(weight), rel=1e-6)
    assert result.after == pytest.approx(condition(result.weight), rel=1e-6)
    assert result.after < result.before / 100


def test_two_hundred_steps_keep_three_tenths_of_the_gap_to_a_steady_mean() -> None:
    # 400 equal values hold the energy and the mean; the single small one hardly moves it.
    values = torch.cat([torch.full((400,), 1.0), torch.full((1,), 1e-3)]).double()
    moved = raised(values, torch.zeros(401).double(), iterations=200)
    gap = (1 - float(moved[-1])) / (1 - 1e-3)
    assert gap == pytest.approx(1.006**-200, rel=0.01)


def test_error_energy_enters_once() -> None:
    values, energy = torch.tensor([10.0, 1.0, 0.5]).double(), torch.tensor([0.0, 40.0, 40.0]).double()
    moved = raised(values, energy, iterations=1, pull=0.1)
    mean = 11.5 / 3
    assert float(moved[2]) == pytest.approx((0.5 + 0.2 * mean) / (1 + 0.2 + 0.08), rel=1e-12)


def test_directions_with_error_energy_are_raised_less() -> None:
    values = torch.tensor([10.0, 0.1, 0.1]).double()
    moved = raised(values, torch.tensor([0.0, 0.0, 50.0]).double(), iterations=100)
    assert 0.1 < float(moved[2]) < 0.8 * float(moved[1])


def test_leading_energy_is_untouched_and_the_rest_only_rises() -> None:
    values = torch.logspace(1, -3, 50).double()
    moved = raised(values, torch.full((50,), 3.0).double(), iterations=200)
    held = values.square().cumsum(dim=0) / values.square().sum()
    leading = int((held <= 0.8).sum()) + 1
    assert torch.equal(moved[:leading], values[:leading])
    assert (moved >= values).all() and int((moved > values).sum()) > 20


def test_values_below_the_mean_are_kept_too_where_the_energy_reaches_them() -> None:
    values = torch.tensor([1.2, 1.1, 0.9, 0.8, 0.1]).double()
    moved = raised(values, torch.zeros(5).double(), iterations=1)
    # Energy 1.44 + 1.21 + 0.81 = 3.46 passes 0.8 of 4.11 at the third value.
    assert torch.equal(moved[:3], values[:3])
    assert float(moved[3]) > 0.8 and float(moved[4]) > 0.1


def test_the_dominant_subspace_of_the_weight_is_preserved() -> None:
    values = torch.cat([torch.tensor([30.0, 20.0]), torch.logspace(0, -3, 18)])
    weight = with_singular_values(values, 30, 20)
    result = reduce_condition_number(weight, torch.eye(20))
    leading = torch.linalg.svd(weight.double()).Vh[:2].T
    torch.testing.assert_close(result.weight.double() @ leading, weight.double() @ leading, rtol=0, atol=1e-5)


def test_a_well_conditioned_weight_is_returned_as_it_is() -> None:
    weight = with_singular_values(torch.linspace(1, 0.02, 16), 16, 16)
    result = reduce_condition_number(weight, torch.eye(16))
    assert result.skipped and result.raised == 0
    assert result.weight is weight
    assert result.before == result.after == pytest.approx(50, rel=1e-3)
    assert not reduce_condition_number(weight, torch.eye(16), skip_below=10.0).skipped


@pytest.mark.parametrize("outputs", [40, 20])
def test_a_rank_deficient_weight_gets_full_rank_and_finite_numbers(outputs: int) -> None:
    weight = with_singular_values(torch.linspace(2, 1, 5), outputs, 30)
    weight[:, 7] = 0
    weight[3] = 0
    result = reduce_condition_number(weight, torch.zeros(30, 30))
    assert torch.isfinite(result.weight).all()
    assert result.before == LARGEST_CONDITION
    assert result.after < 100
    json.dumps([result.before, result.after], allow_nan=False)


def test_a_weight_of_zeros_stays_zero() -> None:
    result = reduce_condition_number(torch.zeros(6, 4), torch.eye(4))
    assert torch.equal(result.weight, torch.zeros(6, 4))
    assert result.raised == 0 and result.after == LARGEST_CONDITION


def test_raised_counts_the_values_that_grew() -> None:
    weight = with_singular_values(torch.tensor([10.0, 1.0, 0.01, 0.001]), 8, 4)
    values = torch.linalg.svdvals(weight.double())
    result = reduce_condition_number(weight, torch.zeros(4, 4))
    assert result.raised == 3
    assert int((torch.linalg.svdvals(result.weight.double()) > values * 1.001).sum()) == 3


def test_a_small_singular_value_is_seen_through_a_condition_number_of_a_million() -> None:
    weight = with_singular_values(torch.cat([torch.ones(23), torch.tensor([1e-6])]), 40, 24)
    result = reduce_condition_number(weight, torch.zeros(24, 24))
    assert result.before == pytest.approx(1e6, rel=0.1)
    # t is 1 - 1/24 at first and rises with the value itself.
    assert result.after == pytest.approx(1 / (1 - 1.006**-200), rel=0.05)


def test_a_decomposition_that_fails_keeps_the_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_args: object, **_options: object) -> None:
        raise torch.linalg.LinAlgError("did not converge")

    monkeypatch.setattr(torch.linalg, "svd", fails)
    weight = with_singular_values(torch.logspace(0, -4, 8), 8, 8)
    result = reduce_condition_number(weight, torch.eye(8))
    assert result.weight is weight and result.skipped


def test_shapes_and_values_are_checked() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        reduce_condition_number(torch.ones(3, 4), torch.eye(3))
    with pytest.raises(ValueError, match="finite"):
        reduce_condition_number(torch.full((3, 4), torch.nan), torch.eye(4))
