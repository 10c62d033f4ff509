"""Grids of q, k and v: limits, what is free in the integer form, and that freedom pays."""

import pytest
import torch
from torch import Tensor

from quant.operand_grid import fit_query_key, fit_value, operand_limits
from sim.contract.attention import STATIONARY_MAX


@pytest.fixture
def operands() -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v (1, 2 heads, 300 tokens, 8) whose channels differ in range and, but for q, in mean."""
    torch.manual_seed(20)
    wide = torch.logspace(-1, 1, 8)
    q, k, v = (torch.randn(1, 2, 300, 8) for _ in range(3))
    return q / wide, k * wide + 20 * torch.randn(8), v * wide + 5 * torch.randn(8)


@pytest.mark.parametrize("bits", [4, 5, 6, 8])
def test_stationary_operands_end_at_119(bits: int) -> None:
    assert operand_limits(bits, stationary=False) == (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    assert operand_limits(bits, stationary=True)[1] == min(2 ** (bits - 1) - 1, STATIONARY_MAX)


@pytest.mark.parametrize("channel_steps", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
def test_products_of_steps_are_one_number_per_head_and_q_has_no_zero_point(
    operands: tuple[Tensor, Tensor, Tensor], bits: int, channel_steps: bool
) -> None:
    q, k = fit_query_key([operands[0]], [operands[1]], bits, channel_steps)
    product = (q.scale * k.scale).expand(2, 1, 8)
    assert torch.allclose(product, product[..., :1], rtol=1e-5)
    assert not q.offset.any()
    for grid in (q, k):
        level = (grid.quantize(operands[0]) - grid.offset) / grid.scale
        assert float(level.min()) >= grid.low - 1e-3 and float(level.max()) <= grid.high + 1e-3


def _logit_error(operands: tuple[Tensor, Tensor, Tensor], channel_steps: bool) -> float:
    """Squared error of the logits, what all keys share left out."""
    q_grid, k_grid = fit_query_key([operands[0]], [operands[1]], 4, channel_steps)
    wanted = operands[0] @ operands[1].transpose(-1, -2)
    error = q_grid.quantize(operands[0]) @ k_grid.quantize(operands[1]).transpose(-1, -2) - wanted
    return float((error - error.mean(dim=-1, keepdim=True)).square().mean())


def test_moving_ranges_between_q_and_k_lowers_the_error(operands: tuple[Tensor, Tensor, Tensor]) -> None:
    assert _logit_error(operands, True) < 0.2 * _logit_error(operands, False)


def test_zero_points_per_channel_lower_the_error_of_v(operands: tuple[Tensor, Tensor, Tensor]) -> None:
    v = operands[2]
    per_channel, per_tensor = (fit_value([v], 4, free).quantize(v) for free in (True, False))
    assert float((per_channel - v).square().mean()) < 0.3 * float((per_tensor - v).square().mean())
    assert per_tensor.shape == v.shape


@pytest.mark.parametrize("channel_steps", [False, True])
def test_eight_bits_are_precise_and_several_pictures_count(
    operands: tuple[Tensor, Tensor, Tensor], channel_steps: bool
) -> None:
    v = operands[2]
    grid = fit_value([v, 3 * v], 8, channel_steps)
    assert float((grid.quantize(3 * v) - 3 * v).abs().max()) < 0.1 * float(v.std())


def test_dead_channels_stay_finite() -> None:
    zeros = torch.zeros(1, 2, 30, 8)
    q, k = fit_query_key([zeros], [zeros], 4, True)
    for grid in (q, k, fit_value([zeros + 2], 4, True)):
        assert torch.isfinite(grid.scale).all() and (grid.scale > 0).all()
    assert torch.allclose(fit_value([zeros + 2], 4, True).quantize(zeros + 2), zeros + 2, atol=1e-4)
