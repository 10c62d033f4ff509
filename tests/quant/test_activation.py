"""Activation grids: what codes stand for, and that choosing codebooks pays."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from quant.activation import ActivationGrid, fit_activation_grid
from quant.agreement import dequantize
from quant.byte_grid import ByteGrid, fit_byte_grid
from quant.export import integer_layer
from quant.fake_quant import FakeQuantLinear
from quant.gptq import round_nearest


@pytest.fixture
def gelu_outputs() -> Tensor:
    torch.manual_seed(0)
    return functional.gelu(torch.randn(3000, 100) * (0.3 + torch.rand(100)) - 0.5)


def relative_error(grid: ActivationGrid | ByteGrid, x: Tensor) -> float:
    wanted = x[:, grid.permutation]
    return float((grid.quantize(x) - wanted).square().mean() / wanted.var(dim=0).mean())


def test_codebooks_lose_less_than_the_uniform_one_on_gelu_outputs(gelu_outputs: Tensor) -> None:
    uniform = relative_error(fit_activation_grid(gelu_outputs, torch.ones(100), uniform_only=True), gelu_outputs)
    chosen = relative_error(fit_activation_grid(gelu_outputs, torch.ones(100)), gelu_outputs)
    assert chosen < 0.8 * uniform
    assert chosen < 0.02


def test_inputs_are_not_changed(gelu_outputs: Tensor) -> None:
    before = gelu_outputs.clone()
    fit_activation_grid(gelu_outputs, torch.ones(100)).quantize(gelu_outputs)
    fit_byte_grid(gelu_outputs).quantize(gelu_outputs)
    assert torch.equal(before, gelu_outputs)


def test_channels_with_far_means_cost_nothing() -> None:
    torch.manual_seed(1)
    x = torch.randn(3000, 64)
    far = x + 100 * torch.randn(64)
    near_error = relative_error(fit_activation_grid(x, torch.ones(64)), x)
    far_error = relative_error(fit_activation_grid(far, torch.ones(64)), far)
    assert far_error == pytest.approx(near_error, rel=0.3)


def test_important_channels_get_finer_steps() -> None:
    torch.manual_seed(2)
    x = torch.randn(2000, 64)
    x[:, 0] *= 12
    spoiled = fit_activation_grid(x, torch.ones(64))
    importance = torch.ones(64)
    importance[0] = 0
    spared = fit_activation_grid(x, importance)
    assert float(spared.scale[0]) < float(spoiled.scale[0])


@pytest.mark.parametrize("bytes_", [False, True])
def test_torch_and_contract_give_the_same_meaning_to_every_input(gelu_outputs: Tensor, bytes_: bool) -> None:
    grid = fit_byte_grid(gelu_outputs) if bytes_ else fit_activation_grid(gelu_outputs, torch.ones(100))
    weight = round_nearest(torch.randn(5, 100), torch.ones(100))
    layer = integer_layer("layer", FakeQuantLinear(grid, weight, torch.zeros(5)), 1.0)
    real = dequantize(layer.encode(gelu_outputs.numpy()), layer)
    if bytes_:
        planes = [real[:, at] for _, at in layer.tile_slices()]
        pairs = zip(planes[::2], planes[1::2], strict=True)
        real = np.concatenate([high + low for high, low in pairs], axis=1)
    np.testing.assert_allclose(real, grid.quantize(gelu_outputs).numpy(), rtol=1e-5, atol=1e-5)


def test_bytes_lose_a_twentieth_of_what_nibbles_lose(gelu_outputs: Tensor) -> None:
    nibbles = relative_error(fit_activation_grid(gelu_outputs, torch.ones(100)), gelu_outputs)
    assert relative_error(fit_byte_grid(gelu_outputs), gelu_outputs) < nibbles / 20
