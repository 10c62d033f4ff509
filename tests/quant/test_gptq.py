"""Rounding of weights: each step must lower the error that it claims to lower."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from quant import gptq


@pytest.fixture
def problem() -> tuple[Tensor, Tensor]:
    """A weight (24, 150) and the covariance (150, 150) of strongly correlated inputs."""
    torch.manual_seed(5)
    mixing = torch.randn(150, 150) @ torch.diag(torch.linspace(2, 0.05, 150))
    inputs = torch.randn(4000, 150) @ mixing
    return torch.randn(24, 150), inputs.T @ inputs / 4000


def test_integers_and_scales_stay_in_range(problem: tuple[Tensor, Tensor]) -> None:
    weight, covariance = problem
    for rounded in (
        gptq.round_nearest(weight, covariance.diagonal()),
        gptq.polish(weight, gptq.round_columns(weight, covariance, 0.01), covariance, 0.01, 2),
    ):
        assert torch.equal(rounded.integers, rounded.integers.round())
        assert rounded.integers.min() >= -8 and rounded.integers.max() <= 7
        assert rounded.scale.shape == (3, 24) and (rounded.scale > 0).all()


def test_gptq_beats_nearest_on_correlated_inputs(problem: tuple[Tensor, Tensor]) -> None:
    weight, covariance = problem
    nearest = gptq.output_error(weight, gptq.round_nearest(weight, covariance.diagonal()), covariance)
    compensated = gptq.output_error(weight, gptq.round_columns(weight, covariance, 0.01), covariance)
    assert compensated < 0.7 * nearest


def test_polishing_lowers_the_error_further_and_never_raises_it(problem: tuple[Tensor, Tensor]) -> None:
    weight, covariance = problem
    rounded = gptq.round_columns(weight, covariance, 0.01)
    dense = gptq.damped(covariance, 0.01).float()
    errors = [gptq.output_error(weight, rounded, dense)]
    for _ in range(3):
        rounded = gptq.polish(weight, rounded, covariance, 0.01, 1)
        errors.append(gptq.output_error(weight, rounded, dense))
    assert all(later <= earlier * (1 + 1e-5) for earlier, later in pairwise(errors))
    assert errors[-1] < 0.98 * errors[0]


def test_uncorrelated_inputs_leave_nothing_to_compensate() -> None:
    torch.manual_seed(6)
    weight, covariance = torch.randn(10, 64), torch.eye(64)
    assert torch.equal(
        gptq.round_columns(weight, covariance, 0.0).integers, gptq.round_nearest(weight, torch.ones(64)).integers
    )


def test_weights_on_a_grid_are_recovered_exactly() -> None:
    torch.manual_seed(7)
    integers = torch.randint(-7, 8, (12, 128)).float()
    integers[:, 0] = integers[:, 64] = 7
    scale = torch.rand(2, 12) + 0.5
    weight = integers * gptq.expand_scale(scale, 128)
    rounded = gptq.round_nearest(weight, torch.ones(128))
    assert torch.allclose(rounded.dequantized(), weight, atol=1e-5)


def test_scale_search_clips_an_outlier() -> None:
    weight = torch.full((1, 64), 0.5)
    weight[0, ::2] = -0.5
    weight[0, 5] = 2.0
    importance = torch.ones(64)
    importance[5] = 1e-6
    assert float(gptq.search_scale(weight, importance, 4)) < 2.0 / 7 * 0.9


def test_compensated_target_undoes_a_gain_of_the_inputs() -> None:
    torch.manual_seed(8)
    weight, inputs = torch.randn(6, 30), torch.randn(5000, 30)
    shrunk = 0.8 * inputs
    covariance = shrunk.T @ shrunk / 5000
    missing = (inputs @ weight.T - shrunk @ weight.T).T @ shrunk / 5000
    target = gptq.compensated_target(weight, covariance, missing, 1e-6)
    assert torch.allclose(target, weight / 0.8, rtol=1e-3, atol=1e-3)
    held = gptq.compensated_target(weight, covariance, missing, 1e6)
    assert torch.allclose(held, weight, atol=1e-3)


def test_refitted_scales_are_a_least_squares_optimum(problem: tuple[Tensor, Tensor]) -> None:
    weight, covariance = problem
    rounded = gptq.round_nearest(weight, torch.ones(150))
    refitted = gptq.RoundedWeight(rounded.integers, gptq.refit_scale(weight, rounded, covariance))
    best = gptq.output_error(weight, refitted, covariance)
    assert best < gptq.output_error(weight, rounded, covariance)
    for factor in (0.97, 1.03):
        moved = gptq.RoundedWeight(rounded.integers, refitted.scale * factor)
        assert gptq.output_error(weight, moved, covariance) > best
