"""AGQ: powers of two to the 1 / tau, with zero among exactly as many codes as the bits allow."""

import numpy as np
import pytest
import torch

from quant.agq import TAUS, agq_grid, fit_agq
from quant.score_grid import ScoreSample, fit_uniform_scores


@pytest.mark.parametrize("bits", [4, 5, 6])
def test_every_tau_has_exactly_as_many_codes_as_the_bits_allow(bits: int) -> None:
    for tau in TAUS:
        grid = agq_grid(tau, 0.5, bits)
        assert len(set(grid.levels.tolist())) == 2**bits == grid.thresholds.numel() + 1
        assert grid.levels[0] == 0 and grid.levels[-1] == 255


def test_codes_are_those_of_the_formula() -> None:
    p = np.linspace(1e-6, 1, 5003)
    for tau in TAUS:
        exponent = np.clip(np.round(-tau * np.log2(p / 0.9)), 0, 15)
        assert np.array_equal(15 - agq_grid(tau, 0.9, 4).codes(torch.from_numpy(p)).numpy(), exponent)


def test_levels_are_those_of_the_formula_where_integers_can_hold_them() -> None:
    levels = agq_grid(2, 0.9, 4).levels.numpy()[-11:]
    assert np.abs(levels - 255 * 2 ** (-np.arange(11)[::-1] / 2)).max() <= 0.5


def test_the_best_tau_is_taken_and_fits_repeat() -> None:
    torch.manual_seed(0)
    scores, values = (2.5 * torch.randn(6, 50, 196)).softmax(dim=-1), torch.randn(6, 196, 32)
    grid, choice = fit_agq(scores, values, 4)
    sample = ScoreSample.of(scores, values)
    assert choice.error == sample.error(grid) < fit_uniform_scores(scores, values, 4)[1]
    assert choice.error <= min(sample.error(agq_grid(tau, sample.peak, 4)) for tau in TAUS)
    assert fit_agq(scores, values, 4)[1] == choice
