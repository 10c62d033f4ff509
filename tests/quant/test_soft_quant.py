"""Trainable twins: the same numbers as what they were made of, useful gradients, whole integers when hardened."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from quant.codebooks import codebook_family
from quant.fake_quant import FakeQuantAttention, FakeQuantLinear, OperandGrid
from quant.gptq import RoundedWeight, round_nearest
from quant.input_grid import InputGrid, store_offset, uniform_levels
from quant.lnq import lnq_grid
from quant.models.layer_call import AttentionCall
from quant.soft_quant import QuantDrop, Rounding, SoftAttention, SoftLinear

CPU = torch.device("cpu")
INPUTS, OUTPUTS = 80, 12


def _grid(curved: bool) -> InputGrid:
    levels = torch.from_numpy(codebook_family())[-1].long() if curved else uniform_levels(4)
    offset = store_offset(torch.linspace(-300, 40, INPUTS))
    scale = torch.tensor([0.11, 0.07])
    return InputGrid(torch.randperm(INPUTS), scale, offset, (levels, levels), 4)


def _layer(curved: bool) -> FakeQuantLinear:
    torch.manual_seed(3)
    weight = round_nearest(torch.randn(OUTPUTS, INPUTS), torch.ones(INPUTS))
    return FakeQuantLinear(_grid(curved), weight, torch.randn(OUTPUTS))


def _inputs(layer: FakeQuantLinear) -> Tensor:
    """Inputs (50, C) around the offsets of the channels, some of them beyond the levels."""
    real_offset = torch.empty(INPUTS)
    real_offset[layer.grid.permutation] = layer.grid.offset * layer.grid.scale[torch.arange(INPUTS) // 64]
    return real_offset + torch.randn(50, INPUTS)


def _attention() -> tuple[FakeQuantAttention, AttentionCall]:
    torch.manual_seed(4)
    scale = torch.full((2, 1, 8), 0.3)
    q = OperandGrid(scale, torch.zeros(2, 1, 8), -8, 7)
    k, v = (OperandGrid(scale, torch.randn(2, 1, 8), -8, 7) for _ in range(2))
    queries, keys, values = (torch.randn(3, 2, 20, 8) for _ in range(3))
    call = AttentionCall("attend", queries, keys, values, 8**-0.5)
    return FakeQuantAttention(q, k, v, lnq_grid(20.0, 0.6, 4)), call


@pytest.mark.parametrize("curved", [False, True])
def test_a_fresh_twin_gives_the_bits_of_the_layer(curved: bool) -> None:
    layer = _layer(curved)
    x = _inputs(layer)
    assert torch.equal(SoftLinear(layer, CPU)(x), layer(x))


def test_a_fresh_twin_gives_the_bits_of_the_attention() -> None:
    attention, call = _attention()
    assert torch.equal(SoftAttention(attention, CPU)(call), attention(call))


@pytest.mark.parametrize("curved", [False, True])
def test_a_trained_twin_gives_the_bits_of_what_it_hardens_to(curved: bool) -> None:
    layer = _layer(curved)
    twin = SoftLinear(layer, CPU)
    twin.grid.log_ratio += torch.tensor([0.05, -0.08])
    twin.grid.shift += 0.3
    twin.rounding.log_ratio += 0.02
    twin.rounding.move += torch.randint(-1, 2, twin.rounding.move.shape)
    twin.rounding.confine()
    hardened = twin.harden()
    assert not torch.equal(hardened.grid.scale, layer.grid.scale)
    assert not torch.equal(hardened.weight.integers, layer.weight.integers)
    assert twin.rounding.gap() == 0
    x = _inputs(layer)
    assert torch.equal(twin(x), hardened(x))


def test_a_wider_scale_leaves_the_middle_level_of_every_channel_where_it_was() -> None:
    layer = _layer(curved=False)
    twin = SoftLinear(layer, CPU)
    twin.grid.log_ratio += 0.1
    before, after = layer.grid, twin.harden().grid
    tile = torch.arange(INPUTS) // 64
    moved = before.offset * before.scale[tile] - after.offset * after.scale[tile]
    # Offsets have 11 significant bits: up to a quarter of a level at 300 levels, less than the 30 of a plain stretch.
    assert float((moved / before.scale[tile]).abs().max()) < 0.3


def test_tiles_of_one_scale_keep_one_scale() -> None:
    layer = _layer(curved=False)
    shared = replace(layer, grid=replace(layer.grid, scale=torch.tensor([0.1, 0.1])))
    twin = SoftLinear(shared, CPU)
    assert twin.grid.log_ratio.numel() == 1
    twin.grid.log_ratio += 0.2
    scale = twin.harden().grid.scale
    assert scale[0] == scale[1] > 0.1


def test_the_gradient_of_a_scale_is_that_of_lsq() -> None:
    layer = _layer(curved=False)
    twin = SoftLinear(layer, CPU)
    x = _inputs(layer)
    twin.grid.log_ratio.requires_grad_()
    twin.grid.quantize(x, None).sum().backward()
    grid = layer.grid
    tile = torch.arange(INPUTS) // 64
    value = x[:, grid.permutation] / grid.scale[tile] - grid.offset
    level = torch.ceil(value - 0.5).clamp(-8, 7)
    inside = (value >= -8) & (value <= 7)
    # LSQ, equation 3, about the middle level 0; times the scale, as its logarithm is trained.
    slope = torch.where(inside, level - value, level) * grid.scale[tile]
    factor = torch.tensor([64.0, 16.0]).mul(50 * 15).rsqrt()
    wanted = (torch.stack([slope[:, tile == one].sum() for one in (0, 1)]) * factor)[[1, 0]]  # narrow scale first
    assert twin.grid.log_ratio.grad is not None
    assert torch.allclose(twin.grid.log_ratio.grad, wanted, rtol=2e-3, atol=1e-3)


def test_the_gradient_of_an_input_passes_within_the_levels_and_stops_outside() -> None:
    layer = _layer(curved=False)
    x = _inputs(layer).requires_grad_()
    SoftLinear(layer, CPU).grid.quantize(x, None).sum().backward()
    grid = layer.grid
    value = x.detach()[:, grid.permutation] / grid.scale[torch.arange(INPUTS) // 64] - grid.offset
    assert x.grad is not None
    inside = (value > -8) & (value < 7)
    assert torch.allclose(x.grad[:, grid.permutation][inside], torch.ones(()), atol=1e-5)
    assert not x.grad[:, grid.permutation][(value < -8) | (value > 7)].any()


def test_moves_stay_within_one_step_and_integers_within_their_limits() -> None:
    integers = torch.tensor([[-8.0, -7.0, 0.0, 7.0]])
    rounding = Rounding(RoundedWeight(integers, torch.ones(1, 1)), CPU)
    rounding.move.fill_(5.0)
    rounding.confine()
    assert rounding.harden().integers.tolist() == [[-7, -6, 1, 7]]
    rounding.move.fill_(-5.0)
    rounding.confine()
    assert rounding.harden().integers.tolist() == [[-8, -8, -1, 6]]


def test_the_penalty_is_zero_on_whole_steps_and_one_halfway() -> None:
    rounding = Rounding(RoundedWeight(torch.zeros(1, 5), torch.ones(1, 1)), CPU)
    rounding.move.copy_(torch.tensor([[-1.0, 0.0, 1.0, 0.5, -0.5]]))
    assert float(rounding.penalty(2.0)) == 2.0
    rounding.move.copy_(torch.tensor([[0.25, 0.0, 0.0, 0.0, -0.75]]))
    assert float(rounding.penalty(2.0)) == pytest.approx(2 * (1 - 0.25))


def test_dropped_elements_are_the_real_ones_in_the_wanted_share() -> None:
    drop = QuantDrop(0.3, torch.Generator().manual_seed(1))
    mixed = drop.mix(torch.ones(10000), torch.zeros(10000))
    assert 0.27 < float(mixed.mean()) < 0.33


def test_without_a_drop_every_element_is_quantized_after_training_with_one() -> None:
    layer = _layer(curved=False)
    twin = SoftLinear(layer, CPU)
    x = _inputs(layer)
    assert not torch.equal(twin(x, QuantDrop(0.5, torch.Generator().manual_seed(1))), layer(x))
    assert torch.equal(twin.grid.quantize(x, None), layer.grid.quantize(x))


def test_a_trained_attention_hardens_to_its_bits_and_keeps_ratios_of_channels() -> None:
    attention, call = _attention()
    twin = SoftAttention(attention, CPU)
    for log_ratio in twin.parameters()[0]:
        log_ratio.add_(0.07)
    hardened = twin.harden()
    assert torch.equal(twin(call), hardened(call))
    assert (hardened.q.scale / attention.q.scale).unique().numel() == 1
    assert float(hardened.q.scale[0, 0, 0]) > 0.3
