"""LNQ: the companding of the paper with exactly as many codes as the bits allow."""

import numpy as np
import pytest
import torch
from torch import Tensor

from quant.lnq import ALPHAS, fit_lnq, lnq_grid
from quant.score_grid import ScoreSample, fit_uniform_scores, log2_thresholds


@pytest.fixture
def attention() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return (2.5 * torch.randn(3, 4, 50, 196)).softmax(dim=-1), torch.randn(3, 4, 196, 32) + 0.5


@pytest.mark.parametrize("bits", [4, 5, 6])
def test_every_alpha_has_exactly_as_many_codes_as_the_bits_allow(bits: int) -> None:
    for alpha in ALPHAS:
        for clip in (0.001, 0.1, 1.0):
            grid = lnq_grid(alpha, clip, bits)
            assert len(set(grid.levels.tolist())) == 2**bits
            assert grid.levels[0] == 0 and grid.levels[-1] == 255
            assert bool((grid.thresholds.diff() > 0).all()) and bool((log2_thresholds(grid).diff() < 0).all())
            assert len(grid.codes(torch.linspace(0, 1, 100001) * clip).unique()) == 2**bits


@pytest.mark.parametrize("alpha", [0.001, 5.0, 50.0])
def test_codes_and_levels_are_those_of_the_formula(alpha: float) -> None:
    clip, steps = 0.8, 15
    p = np.linspace(0, 1, 5003)
    log_clip = np.log(1 + alpha * clip)
    code = np.round(steps * np.log(1 + alpha * np.clip(p, 1e-20, clip)) / log_clip)
    real = (np.exp(log_clip * code / steps) - 1) / alpha
    grid = lnq_grid(alpha, clip, 4)
    assert np.array_equal(grid.codes(torch.from_numpy(p)).numpy(), code)
    assert np.abs(grid.quantize(torch.from_numpy(p)).numpy() - real).max() <= 0.5 * clip / 255 + 1e-9


@pytest.mark.parametrize("bits", [4, 5, 6])
def test_lnq_loses_less_than_uniform_levels_on_softmax_outputs(attention: tuple[Tensor, Tensor], bits: int) -> None:
    grid, choice = fit_lnq(*attention, bits)
    _, uniform = fit_uniform_scores(*attention, bits)
    assert choice.error < 0.8 * uniform
    assert choice.error == ScoreSample.of(*attention).error(grid)


def test_the_choice_beats_every_alpha_with_the_whole_range_and_fits_repeat(attention: tuple[Tensor, Tensor]) -> None:
    grid, choice = fit_lnq(*attention, 4)
    sample = ScoreSample.of(*attention)
    assert choice.error <= min(sample.error(lnq_grid(alpha, sample.peak, 4)) for alpha in ALPHAS)
    assert 0.1 * sample.peak <= choice.clip <= sample.peak
    again, same = fit_lnq(*attention, 4)
    assert same == choice and torch.equal(again.thresholds, grid.thresholds)
