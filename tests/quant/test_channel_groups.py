"""Grouping of channels into K tiles."""

from itertools import combinations

import pytest
import torch
from torch import Tensor

from quant.channel_groups import (
    ChannelArrangement,
    arrange_channels,
    group_channels,
    spread,
    tile_of_position,
)


def test_spread_ignores_one_outlier_in_ten_thousand() -> None:
    x = torch.linspace(-1, 1, 10_000)[:, None].repeat(1, 2)
    x[0, 1] = 1e6
    wide = spread(x)
    assert torch.isclose(wide[0], wide[1], rtol=0.01)
    assert 0.99 < float(wide[0]) <= 1.0


def test_constant_channels_have_a_positive_spread() -> None:
    assert float(spread(torch.full((10, 1), 3.0))) > 0


def test_groups_are_a_permutation_from_wide_to_narrow() -> None:
    torch.manual_seed(0)
    wide = torch.rand(150)
    order = group_channels(wide)
    assert torch.equal(order.sort().values, torch.arange(150))
    assert (wide[order].diff() <= 0).all()


def test_each_tile_holds_sixty_four_positions() -> None:
    tile = tile_of_position(150)
    assert [int((tile == one).sum()) for one in range(3)] == [64, 64, 22]


def ranges(channels: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Low, high and importance of channels whose widths span two decades and whose middles do not follow them."""
    torch.manual_seed(seed)
    width = 10 ** (2 * torch.rand(channels) - 2)
    middle = width * (torch.rand(channels) - 0.5)
    return middle - width / 2, middle + width / 2, torch.rand(channels) + 0.1


def test_off_leaves_channels_in_place_in_one_group() -> None:
    arranged = arrange_channels(*ranges(150)[:2], "off", torch.ones(150))
    assert torch.equal(arranged.permutation, torch.arange(150))
    assert arranged.group_of_tile.tolist() == [0, 0, 0]


def test_tile_gives_each_tile_its_own_group_from_wide_to_narrow() -> None:
    low, high, importance = ranges(150)
    arranged = arrange_channels(low, high, "tile", importance)
    assert arranged.group_of_tile.tolist() == [0, 1, 2]
    assert torch.equal(arranged.permutation.sort().values, torch.arange(150))
    assert ((high - low)[arranged.permutation].diff() <= 0).all()


@pytest.mark.parametrize(("channels", "groups"), [(40, 1), (64, 1), (128, 2), (160, 3), (256, 4), (320, 4), (768, 4)])
def test_four_groups_are_runs_of_whole_tiles_and_fewer_for_few_tiles(channels: int, groups: int) -> None:
    arranged = arrange_channels(*ranges(channels)[:2], "4", torch.ones(channels))
    assert torch.equal(arranged.permutation.sort().values, torch.arange(channels))
    assert arranged.group_of_tile.shape == (-(-channels // 64),)
    assert arranged.group_of_tile.unique_consecutive().tolist() == list(range(groups))


def covering_cost(low: Tensor, high: Tensor, importance: Tensor, permutation: Tensor, group_of_tile: Tensor) -> float:
    """Importance times the squared width of the widest channel of the group, summed over channels."""
    group = group_of_tile[tile_of_position(low.numel())]
    width = (high - low)[permutation].double()
    widest = torch.stack([width[group == one].max() for one in range(int(group.max()) + 1)])
    return float((importance[permutation] * widest[group].square()).sum())


def test_no_other_cut_at_tile_borders_costs_less() -> None:
    low, high, importance = ranges(600)
    arranged = arrange_channels(low, high, "4", importance)
    tiles = arranged.group_of_tile.numel()
    costs = []
    for cuts in combinations(range(1, tiles), 3):
        group = torch.tensor([sum(tile >= cut for cut in cuts) for tile in range(tiles)])
        costs.append(covering_cost(low, high, importance, arranged.permutation, group))
    reached = covering_cost(low, high, importance, arranged.permutation, arranged.group_of_tile)
    assert reached == pytest.approx(min(costs), rel=1e-9)
    assert reached < 0.7 * sorted(costs)[len(costs) // 2]


def test_importance_moves_the_cuts() -> None:
    width = torch.repeat_interleave(torch.tensor([6.0, 5.0, 4.0, 3.0, 2.0]), 64)
    wide_matter = torch.repeat_interleave(torch.tensor([1.0, 1.0, 1.0, 1e-6, 1e-6]), 64)
    narrow_matter = wide_matter.flip(0)
    zero = torch.zeros(320)
    assert arrange_channels(zero, width, "4", wide_matter).group_of_tile.tolist() == [0, 1, 2, 3, 3]
    assert arrange_channels(zero, width, "4", narrow_matter).group_of_tile.tolist() == [0, 0, 1, 2, 3]


def nearest_clusters(features: Tensor, clusters: int, seed: int) -> Tensor:
    """Plain k-means: cluster of each row of `features`."""
    generator = torch.Generator().manual_seed(seed)
    centres = features[torch.randperm(features.shape[0], generator=generator)[:clusters]]
    label = torch.zeros(features.shape[0], dtype=torch.int64)
    for _ in range(50):
        label = torch.cdist(features, centres).argmin(dim=1)
        centres = torch.stack(
            [features[label == one].mean(dim=0) if (label == one).any() else centres[one] for one in range(clusters)]
        )
    return label


def quantization_error(x: Tensor, group: Tensor) -> float:
    """Error of sixteen uniform levels, relative to the variance of each channel; offsets per channel, and for each
    group the best of many scales."""
    error = 0.0
    middle = (x.amax(dim=0) + x.amin(dim=0)) / 2
    for one in group.unique():
        inside = (x - middle)[:, group == one]
        widest = float(inside.abs().max())
        candidates = []
        for share in torch.logspace(-2.5, 0, 40).tolist():
            step = 2 * widest * share / 15
            code = (inside / step - 0.5).round().clamp(-8, 7)
            squared = ((code + 0.5) * step - inside).square().mean(dim=0)
            candidates.append(float((squared / inside.square().mean(dim=0)).sum()))
        error += min(candidates)
    return error / x.shape[1]


def test_groups_of_like_width_beat_clusters_of_raw_scale_and_zero_point() -> None:
    low, high, _ = ranges(512, seed=4)
    torch.manual_seed(9)
    x = low + (high - low) * torch.rand(300, 512)
    zero_low, zero_high = low.clamp_max(0), high.clamp_min(0)
    scale = (zero_high - zero_low) / 15
    zero_point = (-zero_low / scale).round().clamp(0, 15)
    raw = min(
        quantization_error(x, nearest_clusters(torch.stack([scale, zero_point], dim=1), 4, seed)) for seed in range(3)
    )
    importance = 1 / (high - low).square()
    arranged = arrange_channels(low, high, "4", importance)
    group = torch.empty(512, dtype=torch.int64)
    group[arranged.permutation] = arranged.group_of_tile[tile_of_position(512)]
    assert quantization_error(x, group) < 0.3 * raw


def test_arranging_checks_its_arguments() -> None:
    low, high, importance = ranges(70)
    with pytest.raises(ValueError, match="unknown channel grouping"):
        arrange_channels(low, high, "8", importance)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="one value per channel"):
        arrange_channels(low, high[:-1], "4", importance)
    with pytest.raises(ValueError, match="high >= low"):
        arrange_channels(high, low, "4", importance)
    with pytest.raises(ValueError, match="negative"):
        arrange_channels(low, high, "4", -importance)


def test_the_same_ranges_are_arranged_alike() -> None:
    first: ChannelArrangement = arrange_channels(*ranges(700)[:2], "4", torch.ones(700))
    second = arrange_channels(*ranges(700)[:2], "4", torch.ones(700))
    assert torch.equal(first.permutation, second.permutation)
    assert torch.equal(first.group_of_tile, second.group_of_tile)
