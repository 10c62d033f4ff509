"""Input grids: codes of nearest levels, and what each choice of levels, groups and offsets is worth."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from quant.channel_groups import ChannelArrangement, group_channels, spread
from quant.input_grid import InputGrid, fit_codebooks, fit_uniform, uniform_levels

ONES = torch.ones(100)


@pytest.fixture
def gelu_outputs() -> Tensor:
    torch.manual_seed(0)
    return functional.gelu(torch.randn(3000, 100) * (0.3 + torch.rand(100)) - 0.5)


def by_spread(x: Tensor, groups: tuple[int, ...] | None = None) -> ChannelArrangement:
    tiles = range(-(-x.shape[1] // 64))
    return ChannelArrangement(group_channels(spread(x)), torch.tensor(groups or tuple(tiles)))


def relative_error(grid: InputGrid, x: Tensor) -> float:
    wanted = x[:, grid.permutation]
    return float((grid.quantize(x) - wanted).square().mean() / wanted.var(dim=0).mean())


@pytest.mark.parametrize("bits", [4, 5, 6, 8])
def test_uniform_grids_have_consecutive_levels_and_every_code_is_used(gelu_outputs: Tensor, bits: int) -> None:
    grid = fit_uniform(gelu_outputs, ONES, by_spread(gelu_outputs), bits)
    assert [levels.tolist() for levels in grid.levels] == [list(range(-(2 ** (bits - 1)), 2 ** (bits - 1)))] * 2
    ramp = torch.linspace(-40, 40, 20001)[:, None].expand(-1, 100)
    assert len(grid.codes(ramp).unique()) == 2**bits


def test_a_value_takes_its_nearest_level_and_on_a_midpoint_the_lower_one() -> None:
    levels = torch.tensor([-128, -90, -50, -31, -20, -9, -3, 0, 1, 2, 5, 11, 30, 60, 99, 127])
    value = (torch.arange(-2400, 2400) / 16)[:, None]
    wanted = np.abs(value.double().numpy() - levels.numpy()).argmin(axis=1)
    grid = InputGrid(torch.tensor([0]), torch.tensor([0.5]), torch.tensor([3.0]), (levels,), 4)
    x = (value + 3.0) * 0.5
    assert grid.codes(x)[:, 0].tolist() == wanted.tolist()
    assert torch.equal(grid.quantize(x), (levels[wanted][:, None] + 3.0) * 0.5)


@pytest.mark.parametrize("bits", [4, 5, 6, 8])
def test_consecutive_levels_are_rounded_as_the_table_rounds(bits: int) -> None:
    levels = uniform_levels(bits)
    grid = InputGrid(torch.tensor([0]), torch.tensor([1.0]), torch.tensor([0.0]), (levels,), bits)
    x = (torch.arange(-2400, 2400) / 16)[:, None]
    assert torch.equal(grid.quantize(x)[:, 0], levels[grid.codes(x)[:, 0].long()].float())


def test_levels_that_repeat_or_leave_the_range_are_refused() -> None:
    for levels in (torch.zeros(16, dtype=torch.int64), torch.arange(16) + 120, torch.arange(15)):
        with pytest.raises(ValueError, match="levels"):
            InputGrid(torch.tensor([0]), torch.tensor([1.0]), torch.tensor([0.0]), (levels,), 4)


def test_codebooks_lose_less_than_uniform_levels_on_gelu_outputs(gelu_outputs: Tensor) -> None:
    arrangement = by_spread(gelu_outputs)
    uniform = relative_error(fit_uniform(gelu_outputs, ONES, arrangement, 4), gelu_outputs)
    chosen = relative_error(fit_codebooks(gelu_outputs, ONES, arrangement), gelu_outputs)
    assert chosen < 0.8 * uniform
    assert chosen < 0.02


def test_every_bit_more_pays(gelu_outputs: Tensor) -> None:
    arrangement = by_spread(gelu_outputs)
    errors = [relative_error(fit_uniform(gelu_outputs, ONES, arrangement, bits), gelu_outputs) for bits in (4, 5, 6, 8)]
    assert all(fine < coarse / 2.5 for coarse, fine in pairwise(errors))


def test_tiles_of_one_group_share_scale_and_levels_and_lose_by_it(gelu_outputs: Tensor) -> None:
    x = gelu_outputs * torch.cat([torch.ones(60), torch.full((40,), 0.1)])
    shared = fit_codebooks(x, ONES, by_spread(x, (0, 0)))
    assert shared.scale[0] == shared.scale[1] and torch.equal(shared.levels[0], shared.levels[1])
    own = fit_codebooks(x, ONES, by_spread(x))
    assert own.scale[1] < own.scale[0]
    narrow = own.permutation[64:]
    error = [(grid.quantize(x) - x[:, grid.permutation])[:, 64:].square().mean() for grid in (own, shared)]
    assert narrow.numel() == 36 and error[0] < 0.5 * error[1]


@pytest.mark.parametrize("bits", [4, 8])
def test_one_offset_for_a_group_costs_where_means_of_channels_differ(bits: int) -> None:
    torch.manual_seed(1)
    x = torch.randn(2000, 64) + 3 * torch.randn(64)
    arrangement = by_spread(x)
    free = fit_uniform(x, torch.ones(64), arrangement, bits)
    paper = fit_uniform(x, torch.ones(64), arrangement, bits, channel_offsets=False)
    assert len(paper.offset.unique()) == 1
    assert relative_error(free, x) < 0.5 * relative_error(paper, x)


def test_channels_with_far_means_cost_nothing() -> None:
    torch.manual_seed(1)
    x = torch.randn(3000, 64)
    far = x + 100 * torch.randn(64)
    near_error, far_error = (relative_error(fit_codebooks(y, torch.ones(64), by_spread(y)), y) for y in (x, far))
    assert far_error == pytest.approx(near_error, rel=0.3)


def test_important_channels_get_finer_steps() -> None:
    torch.manual_seed(2)
    x = torch.randn(2000, 64)
    x[:, 0] *= 12
    importance = torch.ones(64)
    spoiled = fit_codebooks(x, importance, by_spread(x))
    importance[0] = 0
    assert float(fit_codebooks(x, importance, by_spread(x)).scale[0]) < float(spoiled.scale[0])


@pytest.mark.parametrize("bits", [4, 8])
def test_offsets_of_constant_channels_fit_into_16_bits(bits: int) -> None:
    x = torch.full((50, 64), 1e4)
    grid = fit_uniform(x, torch.ones(64), by_spread(x), bits)
    assert bool(grid.offset.isfinite().all())
    assert torch.equal(grid.offset, grid.offset.half().float())
    assert grid.quantize(x).sub(x).abs().max() < 1e4 * 2e-3


def test_inputs_are_not_changed_and_fits_repeat(gelu_outputs: Tensor) -> None:
    before = gelu_outputs.clone()
    for fit in (
        lambda: fit_codebooks(gelu_outputs, ONES, by_spread(gelu_outputs)),
        lambda: fit_uniform(gelu_outputs, ONES, by_spread(gelu_outputs), 8),
    ):
        assert torch.equal(fit().quantize(gelu_outputs), fit().quantize(gelu_outputs))
    assert torch.equal(before, gelu_outputs)


def test_groups_must_match_the_channels(gelu_outputs: Tensor) -> None:
    with pytest.raises(ValueError, match="3 groups of tiles for 100 channels"):
        fit_uniform(gelu_outputs, ONES, by_spread(gelu_outputs, (0, 1, 2)), 4)
