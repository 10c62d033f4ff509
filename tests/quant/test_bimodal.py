"""Detection of keys with two modes, and the folding of signs."""

import pytest
import torch
from torch import Tensor

from quant import bimodal


def two_modes(count: int = 20_000, distance: float = 4.0, seed: int = 0) -> Tensor:
    """Two Gaussians of standard deviation 1/2 around plus and minus half of `distance`."""
    torch.manual_seed(seed)
    side = torch.where(torch.arange(count) % 2 == 0, 0.5, -0.5)
    return side * distance + 0.5 * torch.randn(count)


def one_mode(count: int = 20_000, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    return torch.randn(count)


def test_density_equals_the_sum_of_one_kernel_per_sample() -> None:
    samples = torch.cat([one_mode(300), two_modes(300) * 3]).double()
    width = samples.std() * 600**-0.2
    points = torch.linspace(float(samples.min()), float(samples.max()), 128, dtype=torch.float64)
    direct = torch.exp(-0.5 * ((points[:, None] - samples) / width).square()).mean(dim=1) / (
        width * (2 * torch.pi) ** 0.5
    )
    torch.testing.assert_close(bimodal.density(samples), direct, rtol=2e-3, atol=1e-5)


def test_two_modes_are_told_from_one_and_three() -> None:
    assert bimodal.is_bimodal(two_modes().reshape(100, 200))
    assert not bimodal.is_bimodal(one_mode())
    assert not bimodal.is_bimodal(torch.cat([two_modes(distance=10.0), 0.5 * one_mode(10_000)]))


def test_modes_that_overlap_are_one() -> None:
    assert not bimodal.is_bimodal(two_modes(distance=0.8))


def test_a_constant_and_a_single_value_are_not_bimodal() -> None:
    assert not bimodal.is_bimodal(torch.full((100,), 2.0))
    assert not bimodal.is_bimodal(torch.tensor([2.0]))


def test_a_million_values_of_wide_range_have_a_finite_density() -> None:
    values = two_modes(1_000_000)
    assert bimodal.is_bimodal(values)
    values[0] = 1e6
    assert torch.isfinite(bimodal.density(values)).all()


def hills(*places_and_heights: tuple[int, float]) -> Tensor:
    """A density that is flat but for triangles of half-width 5."""
    heights = torch.full((128,), 0.01)
    for place, height in places_and_heights:
        for step in range(-5, 6):
            heights[place + step] = max(float(heights[place + step]), height * (1 - abs(step) / 6))
    return heights


def test_peaks_nearer_than_the_least_distance_leave_the_higher() -> None:
    assert bimodal.peaks(hills((30, 1.0), (61, 0.9))) == [30]
    assert bimodal.peaks(hills((30, 0.9), (61, 1.0))) == [61]
    assert bimodal.peaks(hills((30, 0.9), (62, 1.0))) == [30, 62]


def test_a_peak_dropped_for_a_higher_one_does_not_drop_others() -> None:
    assert bimodal.peaks(hills((20, 0.8), (45, 0.9), (70, 1.0))) == [20, 70]


def test_a_peak_below_one_hundredth_of_the_sum_does_not_count() -> None:
    tall = hills((30, 1.0))
    share = 0.01 * float(tall.sum())
    assert bimodal.peaks(hills((30, 1.0), (90, 0.7 * share))) == [30]
    assert bimodal.peaks(hills((30, 1.0), (90, 2.0 * share))) == [30, 90]


def test_a_plateau_is_one_peak_and_an_end_is_none() -> None:
    heights = torch.zeros(128)
    heights[60:64] = 1.0
    assert bimodal.peaks(heights) == [61]
    assert bimodal.peaks(torch.linspace(0, 1, 128)) == []


def test_the_majority_of_pictures_decides() -> None:
    two, one = two_modes(5000), one_mode(5000)
    assert bimodal.mostly_bimodal([one, two, two])
    assert not bimodal.mostly_bimodal([two, one, one])
    assert not bimodal.mostly_bimodal([two, one])


def test_folding_leaves_every_score_unchanged_and_one_mode() -> None:
    torch.manual_seed(3)
    query_inputs, key_inputs = torch.randn(7, 12).double(), torch.randn(500, 10).double()
    q_weight, q_bias = torch.randn(16, 12).double(), torch.randn(16).double()
    k_weight = 0.1 * torch.randn(16, 10).double()
    k_bias = 2.0 * torch.where(torch.arange(16) % 3 == 0, -1.0, 1.0).double()
    key = key_inputs @ k_weight.T + k_bias
    folded = bimodal.fold_signs(q_weight, q_bias, k_weight, k_bias, key.mean(dim=0))
    query = query_inputs @ q_weight.T + q_bias
    new_query = query_inputs @ folded.q_weight.T + folded.q_bias
    new_key = key_inputs @ folded.k_weight.T + folded.k_bias
    # Per head of four channels: signs cancel channel by channel.
    for head in range(0, 16, 4):
        inside = slice(head, head + 4)
        torch.testing.assert_close(new_query[:, inside] @ new_key[:, inside].T, query[:, inside] @ key[:, inside].T)
    assert torch.equal(folded.signs, k_bias / 2)
    assert bimodal.is_bimodal(key) and not bimodal.is_bimodal(new_key)


def test_a_channel_of_mean_zero_keeps_its_sign() -> None:
    weight, bias = torch.ones(3, 2), torch.ones(3)
    folded = bimodal.fold_signs(weight, bias, weight, bias, torch.tensor([0.0, -0.0, -1e-30]))
    assert folded.signs.tolist() == [1.0, 1.0, -1.0]
    assert torch.equal(weight, torch.ones(3, 2)) and torch.equal(folded.k_weight[0], weight[0])


def test_shapes_and_values_are_checked() -> None:
    with pytest.raises(ValueError, match="same channels"):
        bimodal.fold_signs(torch.ones(3, 2), torch.ones(3), torch.ones(4, 2), torch.ones(4), torch.ones(3))
    with pytest.raises(ValueError, match="finite"):
        bimodal.is_bimodal(torch.tensor([1.0, torch.inf]))
    with pytest.raises(ValueError, match="at least one picture"):
        bimodal.mostly_bimodal([])
