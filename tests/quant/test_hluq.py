"""HLUQ: the levels of the paper, without the defect of its public code, chosen by output error."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from quant.hluq import GRID_RATES, RANGE_RATES, fit_hluq, hluq_grid, hluq_levels


def paper_hluq(x: Tensor, bits: int, rho: float, g: float, mask_all: bool) -> Tensor:
    """Method 4.1, element by element formulas; `mask_all` zeroes codes of both parts, as the public code does."""
    minimum, extent = x.min(), x.max() - x.min()
    log_scale, uniform_scale = rho * extent, (1 - rho) * extent / ((2**bits - 1) * (1 - g))
    log_levels = int(g * 2**bits)
    v = (x - minimum).clamp_min(1e-20)
    is_log = v <= log_scale
    exponent = torch.round(-torch.log2(v / log_scale))
    step = torch.round((v - log_scale) / uniform_scale).clamp(0, 2**bits - log_levels - 1)
    too_small = torch.where(is_log, exponent, v) >= log_levels
    vhat = torch.where(is_log, log_scale * 2.0**-exponent, log_scale + uniform_scale * step)
    vhat = torch.where(too_small & is_log, 0.0, vhat)
    if mask_all:
        vhat = torch.where(too_small & ~is_log, log_scale, vhat)
    return vhat + minimum


@pytest.fixture
def gelu_outputs() -> Tensor:
    torch.manual_seed(0)
    return functional.gelu(1.2 * torch.randn(2048, 192) + 0.3 * torch.randn(192) - 1.0)


@pytest.fixture
def weight() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(48, 192) / 14


def output_error(xhat: Tensor, x: Tensor, weight: Tensor) -> float:
    return float(((xhat - x) @ weight.T).square().mean())


@pytest.mark.parametrize("bits", [4, 5, 6])
@pytest.mark.parametrize("g", GRID_RATES)
def test_every_pair_of_rates_has_exactly_as_many_levels_as_codes(bits: int, g: float) -> None:
    for rho in RANGE_RATES:
        log_levels = round(g * 2**bits)
        real = hluq_levels(rho, (1 - rho) / ((2**bits - 1) * (1 - g)), log_levels, bits)
        (levels,) = hluq_grid(64, -0.17, real).levels
        assert len(real) == len(set(levels.tolist())) == 2**bits
        assert (int(levels[0]), int(levels[-1])) == (-128, 127)


@pytest.mark.parametrize("g", GRID_RATES)
def test_large_values_keep_their_uniform_level(g: float) -> None:
    torch.manual_seed(0)
    x = functional.gelu(torch.randn(60000))
    x = torch.cat([x, torch.tensor([6.1])])
    with_defect, corrected = ((paper_hluq(x, 4, 0.1, g, mask_all) - x).square().mean() for mask_all in (True, False))
    extent = float(x.max() - x.min())
    levels = hluq_levels(0.1 * extent, 0.9 * extent / (15 * (1 - g)), int(g * 16), 4)
    ours = (hluq_grid(1, float(x.min()), levels).quantize(x[:, None])[:, 0] - x).square().mean()
    assert ours < 1.02 * corrected
    assert with_defect == corrected if g == 1 / 2 else with_defect > 1.1 * corrected
    if g == 1 / 8:
        assert with_defect > 8 * ours


def test_levels_are_those_of_the_paper_up_to_half_an_integer(gelu_outputs: Tensor) -> None:
    x = gelu_outputs
    extent = float(x.max() - x.min())
    real = hluq_levels(0.3 * extent, 0.7 * extent / (15 * 0.75), 4, 4)
    paper = paper_hluq(x, 4, 0.3, 0.25, mask_all=False).unique() - x.min()
    assert paper.numpy() == pytest.approx(real, rel=1e-4, abs=1e-5)
    grid = hluq_grid(192, float(x.min()), real)
    stored = (grid.levels[0] + grid.offset[0]) * grid.scale[0] - x.min()
    assert bool((stored - torch.from_numpy(real)).abs().max() <= 0.55 * grid.scale[0])


@pytest.mark.parametrize("bits", [4, 5, 6])
def test_hluq_loses_less_output_than_uniform_levels_over_the_range(
    gelu_outputs: Tensor, weight: Tensor, bits: int
) -> None:
    x = gelu_outputs
    step = (x.max() - x.min()) / (2**bits - 1)
    uniform = output_error(((x - x.min()) / step).round() * step + x.min(), x, weight)
    grid, choice = fit_hluq(x, weight, bits)
    ours = output_error(grid.quantize(x), x, weight)
    assert ours < 0.6 * uniform
    assert choice.error == pytest.approx(ours, rel=0.25)


def test_the_chosen_pair_is_the_best_of_the_nine_and_refining_does_not_lose(
    gelu_outputs: Tensor, weight: Tensor
) -> None:
    x = gelu_outputs[:256]
    extent = float(x.max() - x.min())
    errors = {}
    for rho in RANGE_RATES:
        for g in GRID_RATES:
            levels = hluq_levels(rho * extent, (1 - rho) * extent / (15 * (1 - g)), int(16 * g), 4)
            errors[rho, g] = output_error(hluq_grid(192, float(x.min()), levels).quantize(x), x, weight)
    _, coarse = fit_hluq(x, weight, 4, refine=False)
    assert (coarse.range_rate, coarse.grid_rate) == min(errors, key=lambda pair: errors[pair])
    assert coarse.error == pytest.approx(min(errors.values()), rel=1e-4)
    assert fit_hluq(x, weight, 4)[1].error < coarse.error


def test_range_is_averaged_over_pictures(gelu_outputs: Tensor, weight: Tensor) -> None:
    pictures = [gelu_outputs[:1000], 2 * gelu_outputs[1000:]]
    _, choice = fit_hluq(pictures, weight, 4, refine=False)
    assert choice.minimum == pytest.approx(float((pictures[0].min() + pictures[1].min()) / 2))
    extent = float((pictures[0].max() + pictures[1].max()) / 2) - choice.minimum
    assert choice.log_scale == pytest.approx(choice.range_rate * extent, rel=1e-5)
    with pytest.raises(ValueError, match="at least one picture"):
        fit_hluq([], weight, 4)


def test_fits_repeat_and_the_whole_tensor_has_one_grid(gelu_outputs: Tensor, weight: Tensor) -> None:
    (one, first), (other, second) = (fit_hluq(gelu_outputs, weight, 4) for _ in range(2))
    assert first == second and torch.equal(one.quantize(gelu_outputs), other.quantize(gelu_outputs))
    assert len(one.levels) == 3 and len(one.offset.unique()) == len(one.scale.unique()) == 1
