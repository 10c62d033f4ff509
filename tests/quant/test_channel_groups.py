"""Grouping of channels into K tiles."""

import torch

from quant.channel_groups import group_channels, spread, tile_of_position


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
