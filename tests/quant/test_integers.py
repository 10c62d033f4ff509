"""Every operation in integers against the same operation in float: errors of least significant bits, as derived."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from quant import integers
from quant.channel_groups import arrange_channels, spread, tile_of_position
from quant.fake_quant import FakeQuantLinear
from quant.gptq import RoundedWeight, round_nearest
from quant.input_grid import InputGrid, fit_codebooks, fit_uniform, uniform_levels
from quant.integers import exponent_for
from sim.contract.constants import SCALE_FRACTION_BITS, TILE_CHANNELS
from sim.contract.layer import weight_limits
from sim.contract.wide import Wide, to_wide

TOKENS = 400


@dataclass(frozen=True)
class Problem:
    """A calibrated layer, its inputs as they arrive in integers, and the float result."""

    layer: FakeQuantLinear
    x: Wide
    wanted: np.ndarray


def arrived(x: Tensor) -> Wide:
    """Inputs (tokens, C) as the operation in front would hand them over."""
    return to_wide(x.numpy(), exponent_for(float(x.abs().max())))


def problem(x: Tensor, bits: int, weight_bits: int = 4, outputs: int = 20) -> Problem:
    """A layer for inputs (tokens, C), its grid fitted on what arrives."""
    wide = arrived(x)
    x = torch.from_numpy(wide.real())
    channels = x.shape[1]
    weight = torch.randn(outputs, channels) * torch.logspace(-0.5, 0.5, outputs)[:, None]
    width, importance = spread(x), weight.square().sum(dim=0)
    arrangement = arrange_channels(-width, width, "tile", importance)
    grid = (
        fit_codebooks(x, importance, arrangement) if bits == 4 else fit_uniform(x, importance, arrangement, bits, True)
    )
    rounded = round_nearest(weight[:, grid.permutation], torch.ones(channels), weight_bits)
    layer = FakeQuantLinear(grid, rounded, torch.randn(outputs))
    return Problem(layer, wide, layer(x).double().numpy())


def plain_inputs(channels: int = 150) -> Tensor:
    """Inputs with means far from zero and wide scales."""
    torch.manual_seed(9)
    return torch.randn(TOKENS, channels) * (0.05 + torch.rand(channels)) + 3 * torch.randn(channels)


def uneven_inputs() -> Tensor:
    """Tiles whose scales are a hundred thousand apart, as behind LayerNorms with outlier channels."""
    torch.manual_seed(10)
    scale = torch.cat([torch.full((TILE_CHANNELS,), one) for one in (30.0, 0.3, 3e-4)])
    return torch.randn(TOKENS, scale.numel()) * scale


def step_errors(case: Problem) -> np.ndarray:
    """Errors (tokens, N) of the integer layer in its wide steps, on the levels that the float layer takes too."""
    exported = integers.dense("layer", case.layer, case.x.exponent, float(np.abs(case.wanted).max()))
    codes, wide = exported.run(case.x)
    # Of levels far finer than the steps of what arrives none is right or wrong; nor does it matter.
    live = case.layer.grid.scale.numpy() > 2.0 ** (case.x.exponent - 12)
    live = live[tile_of_position(codes.shape[1]).numpy()]
    ours = exported.encoder.level(codes).astype(np.float64)[:, live]
    theirs = levels_of(case.layer.grid, torch.from_numpy(case.x.real()))[:, live]
    # The multiplier has 16 bits: levels differ only where a value lies on a threshold, and then by one code.
    assert np.mean(ours != theirs) < 0.01
    same = (ours == theirs).all(axis=1)
    assert same.mean() > 0.1
    return np.abs(wide.values - np.ldexp(case.wanted, -exported.wide_exponent))[same]


def levels_of(grid: InputGrid, x: Tensor) -> np.ndarray:
    """Levels (tokens, C), permuted."""
    tile = tile_of_position(grid.offset.numel())
    return (grid.quantize(x).double() / grid.scale.double()[tile] - grid.offset.double()).round().numpy()


def scale_rounding(case: Problem) -> float:
    """A bound on what rounded scales cost, in wide steps: half a mantissa step for each unit of a tile's sum."""
    grid, weight = case.layer.grid, case.layer.weight
    tile = tile_of_position(grid.offset.numel())
    level = levels_of(grid, torch.from_numpy(case.x.real()))
    low, high = (torch.stack([row[end] for row in grid.levels])[tile] for end in (0, -1))
    # The rounding vanishes at zero where a channel can stand for it, and at its level 0 where it cannot.
    value = level + torch.where((low <= -grid.offset) & (-grid.offset <= high), grid.offset, 0).double().numpy()
    total = np.zeros(case.wanted.shape)
    for one in tile.unique():
        at = (tile == one).numpy()
        total += np.abs(value[:, at] @ weight.integers.double().numpy()[:, at].T)
    return float(total.max()) * 0.5 / (1 << SCALE_FRACTION_BITS)


@pytest.mark.parametrize("inputs", ["plain", "uneven"])
@pytest.mark.parametrize(("bits", "weight_bits"), [(4, 4), (5, 5), (6, 6), (8, 8), (8, 4)])
def test_a_dense_layer_is_off_by_the_rounding_of_scales_and_of_the_result(
    bits: int, weight_bits: int, inputs: str
) -> None:
    case = problem(plain_inputs() if inputs == "plain" else uneven_inputs(), bits, weight_bits)
    # Scales of all widths are rounded to 16 bits: passes below the highest add a part of a step, not many.
    assert step_errors(case).max() <= 0.51 + 1 / 256 + min(scale_rounding(case), 0.6)


@pytest.mark.parametrize("bits", [4, 8])
def test_dead_channels_cost_nothing_whatever_they_stand_at(bits: int) -> None:
    """Scales of 1e-8, and constants thousands of levels from zero: a tile of them is a constant of the result."""
    torch.manual_seed(11)
    alive, dead = torch.randn(TOKENS, TILE_CHANNELS), torch.randn(TILE_CHANNELS).expand(TOKENS, -1)
    weight = torch.randn(20, 2 * TILE_CHANNELS)
    x = arrived(torch.cat([alive, dead], dim=1))
    real = torch.from_numpy(x.real())
    live = fit_uniform(
        real[:, :TILE_CHANNELS],
        torch.ones(TILE_CHANNELS),
        arrange_channels(-spread(alive), spread(alive), "tile", torch.ones(TILE_CHANNELS)),
        bits,
        True,
    )
    still = real[0, TILE_CHANNELS:]
    dead_scale = float(still.abs().max()) / 60000
    grid = InputGrid(
        torch.cat([live.permutation, TILE_CHANNELS + torch.arange(TILE_CHANNELS)]),
        torch.tensor([float(live.scale[0]), dead_scale]),
        torch.cat([live.offset, (still / dead_scale).half().float()]),
        (uniform_levels(bits),) * 2,
        bits,
    )
    rounded = round_nearest(weight[:, grid.permutation], torch.ones(2 * TILE_CHANNELS))
    layer = FakeQuantLinear(grid, rounded, torch.zeros(20))
    case = Problem(layer, x, layer(real).double().numpy())
    assert step_errors(case).max() <= 0.51 + 1 / 256 + scale_rounding(case)
    assert scale_rounding(case) < 4


def test_a_scale_of_1e_8_writes_the_middle_level() -> None:
    """Levels far finer than a step of the input: the encoder's multiplier is at its end, and level 0 stays in place."""
    grid = InputGrid(torch.arange(4), torch.tensor([1e-8]), torch.zeros(4), (uniform_levels(8),), 8)
    for value in (0, 5):
        # An offset of up to 60,000 levels cannot reach a value of 5 steps: its codes are at the upper end.
        codes = integers.grid_encoder("layer", -8, grid).encode(Wide(np.full((1, 4), value, np.int16), -8))
        assert (codes == (128 if value == 0 else 255)).all()


@pytest.mark.parametrize("bits", [4, 8])
def test_no_exported_layer_overflows_however_large_its_scales(bits: int) -> None:
    """5,120 inputs (the widest of ViT-H), every weight at its end, and a result that calibration never saw."""
    inputs = 5120
    low, _ = weight_limits(bits)
    weight = RoundedWeight(torch.full((3, inputs), float(low)), torch.ones(inputs // TILE_CHANNELS, 3), bits)
    tiles = inputs // TILE_CHANNELS
    # Sixteen levels that reach as far as one plane can.
    levels = uniform_levels(8) if bits == 8 else 2 * torch.arange(16) - 15
    grid = InputGrid(torch.arange(inputs), torch.ones(tiles), torch.zeros(inputs), (levels,) * tiles, bits)
    exported = integers.dense("layer", FakeQuantLinear(grid, weight, torch.zeros(3)), 0, 0.0)
    assert int(exported.array_form.worst_accumulator().max()) < 1 << 35


@pytest.mark.parametrize("largest", [1e-3, 1.0, 100.0, 5000.0])
def test_the_exponent_is_the_smallest_with_a_margin(largest: float) -> None:
    exponent = exponent_for(largest)
    assert (
        integers.WIDE_MARGIN * largest * 2.0**-exponent
        <= 32767
        < integers.WIDE_MARGIN * largest * 2.0 ** (1 - exponent)
    )


def test_layer_norm_is_off_by_its_ten_fraction_bits() -> None:
    torch.manual_seed(12)
    norm = nn.LayerNorm(96).requires_grad_(False)
    norm.weight.data, norm.bias.data = 0.2 + 3 * torch.rand(96), torch.randn(96)
    x = arrived(torch.randn(TOKENS, 96) * 7 + 3)
    wanted = norm(torch.from_numpy(x.real())).double().numpy()
    exported = integers.layer_norm("norm", norm, x.exponent, float(np.abs(wanted).max()))
    steps = np.ldexp(wanted, -exported.wide_exponent)
    # Half a step of the result, and half of 2**-10 of a standard deviation times the gain in wide steps; the root's
    # table is good to 2**-14.
    gain = np.ldexp(norm.weight.double().numpy(), -exported.wide_exponent)
    scaled = steps - np.ldexp(norm.bias.double().numpy(), -exported.wide_exponent)
    bound = 0.51 + gain * 2.0**-11 + np.abs(scaled) * 2.0**-13
    assert (np.abs(exported.run(x).values - steps) <= bound).all()


@pytest.mark.parametrize("spread_of_inputs", [0.3, 3.0, 30.0])
def test_gelu_is_off_by_its_table(spread_of_inputs: float) -> None:
    torch.manual_seed(13)
    x = arrived(torch.randn(5000) * spread_of_inputs)
    wanted = nn.functional.gelu(torch.from_numpy(x.real())).double().numpy()
    exported = integers.gelu("act", x.exponent, float(np.abs(wanted).max()))
    error = np.abs(np.ldexp(exported.run(x).values.astype(float), exported.wide_exponent) - wanted)
    step = 2.0**exported.wide_exponent
    # Straight lines over segments of a 64th of the sampled range leave the second derivative, at most 0.8, times h^2/8.
    segment = np.ldexp(1.0, x.exponent + exported.segment_bits)
    assert error.max() <= step + 0.8 * segment**2 / 8


@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_is_off_by_its_multipliers_and_half_a_step(stride: int) -> None:
    torch.manual_seed(14)
    module = nn.Conv2d(6, 6, 3, stride=stride, padding=1, groups=6).requires_grad_(False)
    module.weight.data *= torch.logspace(-8, 0, 6)[:, None, None, None]
    integers.round_depthwise(module)
    x = arrived(torch.randn(9, 8, 6) * 4)
    wanted = module(torch.from_numpy(x.real()).permute(2, 0, 1)[None])[0].permute(1, 2, 0).double().numpy()
    exported = integers.depthwise("local", module, x.exponent, float(np.abs(wanted).max()))
    steps = np.ldexp(wanted, -exported.wide_exponent)
    # The multiplier of a channel has at least 8 bits where its weights are at least a 256th of the largest.
    assert (np.abs(exported.run(x).values - steps) <= 0.51 + np.abs(steps) * 2.0**-8).all()
    assert int(exported.multiplier[-1]) >= 1 << 15


def test_rounded_depthwise_weights_are_the_stored_ones() -> None:
    torch.manual_seed(15)
    module = nn.Conv2d(5, 5, 3, padding=1, groups=5).requires_grad_(False)
    before = module.weight.clone()
    integers.round_depthwise(module)
    exported = integers.depthwise("local", module, -8, 10.0)
    scale = before.abs().amax(dim=(1, 2, 3)) / 127
    assert np.array_equal(exported.weight, (before[:, 0] / scale[:, None, None]).round().numpy().astype(np.int8))
    assert torch.allclose(module.weight, before, atol=float(scale.max()) * 0.51)
    rounded = module.weight.clone()
    integers.round_depthwise(module)
    assert torch.allclose(rounded, module.weight, atol=1e-6)


def test_an_addition_is_off_by_half_a_step() -> None:
    torch.manual_seed(16)
    a, b = arrived(torch.randn(50, 8) * 40), arrived(torch.randn(50, 8))
    wanted = a.real().astype(np.float64) + b.real()
    exported = integers.residual("add", a.exponent, b.exponent, float(np.abs(wanted).max()))
    error = np.abs(exported.run(a, b).values - np.ldexp(wanted, -exported.wide_exponent))
    assert error.max() <= 0.5
