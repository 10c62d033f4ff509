"""One dense layer: which tokens its statistics see, which codes its inputs get, how its weight is rounded."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from quant.acnr import reduce_condition_number
from quant.input_grid import uniform_levels
from quant.models.layer_call import LayerCall, im2col
from quant.quantize_layer import (
    QuantizedDense,
    apply_factor,
    chosen_rows,
    equalising_factor,
    quantize_dense,
    sample_tokens,
)
from quant.recipe import NONE, Recipe, strict

NIBBLES = strict(Recipe())
CHANNELS, OUTPUTS = 80, 12


def layer_inputs(tokens: int = 600) -> Tensor:
    """Correlated inputs (tokens, CHANNELS) of unlike spreads and means."""
    torch.manual_seed(2)
    x = torch.randn(tokens, CHANNELS) @ torch.randn(CHANNELS, CHANNELS) / 9
    return x * torch.logspace(-0.7, 0.7, CHANNELS) + torch.randn(CHANNELS)


@pytest.fixture
def module() -> nn.Linear:
    torch.manual_seed(3)
    return nn.Linear(CHANNELS, OUTPUTS).requires_grad_(False)


def quantize(module: nn.Module, x: Tensor, recipe: Recipe, name: str = "layer", **options: object) -> QuantizedDense:
    """The layer quantized on float inputs and the same ones with some noise, as a network in front would give."""
    noisy = torch.where(x == 0, x, x + 0.05 * torch.randn(x.shape, generator=torch.Generator().manual_seed(4)))
    call = LayerCall(name, module, x, **options)  # type: ignore[arg-type]
    return quantize_dense([call], [replace(call, x=noisy)], recipe)


def parts(result: QuantizedDense) -> list[Tensor]:
    grid, weight = result.layer.grid, result.layer.weight
    return [grid.permutation, grid.scale, grid.offset, *grid.levels, weight.integers, weight.scale, result.layer.bias]


def test_few_rows_are_all_taken_and_many_at_random() -> None:
    assert torch.equal(chosen_rows(5, 5), torch.arange(5))
    rows = chosen_rows(64 * 64, 64)
    assert rows.numel() == 64 == rows.unique().numel() and bool((rows.diff() > 0).all())
    assert torch.equal(rows, chosen_rows(64 * 64, 64))
    # Evenly spaced rows of a map of 64 columns would all lie in one column.
    assert (rows % 64).unique().numel() > 30


def test_tokens_are_the_same_rows_of_tensors_of_equal_shapes_in_order() -> None:
    first, second = torch.arange(40.0).view(2, 4, 5, 1), 100 + torch.arange(30.0)[:, None]
    sample = sample_tokens([first, second], 50)
    assert sample.shape == (50, 1) and bool((sample[:, 0].diff() > 0).all())
    assert torch.equal(sample_tokens([-first, -second], 50), -sample)
    assert torch.equal(sample_tokens([first, second], 70)[:, 0], torch.cat([first.flatten(), second[:, 0]]))


@pytest.mark.parametrize("recipe", [NIBBLES, replace(NIBBLES, acnr=True), NONE], ids=["default", "acnr", "nearest"])
def test_padding_behind_a_norm_is_in_no_statistic(module: nn.Linear, recipe: Recipe) -> None:
    x = layer_inputs()
    padded = torch.cat([x[:300], torch.zeros(500, CHANNELS), x[300:]])
    without, with_padding = (
        quantize_dense([call], [call], recipe)
        for call in (LayerCall("layer", module, x), LayerCall("layer", module, padded))
    )
    assert torch.equal(with_padding.inputs, x)
    assert all(torch.equal(*pair) for pair in zip(parts(without), parts(with_padding), strict=True))


def test_padding_does_not_narrow_the_factors_that_equalise() -> None:
    x = layer_inputs()
    call = LayerCall("layer", nn.Linear(CHANNELS, OUTPUTS), x)
    factor = equalising_factor([call])
    padded = replace(call, x=torch.cat([x, torch.zeros(3000, CHANNELS)]))
    assert torch.equal(equalising_factor([padded]), factor)
    assert float(factor.log().mean()) == pytest.approx(0, abs=1e-5)
    spread = (x / factor).std(dim=0)
    assert float(spread.max() / spread.min()) < 2 < float(x.std(dim=0).max() / x.std(dim=0).min())


def test_an_input_of_nothing_but_zeros_stays_finite(module: nn.Linear) -> None:
    result = quantize(module, torch.zeros(100, CHANNELS), NIBBLES)
    assert all(bool(torch.isfinite(part.float()).all()) for part in parts(result))
    torch.testing.assert_close(result.layer(torch.zeros(3, CHANNELS)), module.bias.expand(3, -1), rtol=0, atol=1e-3)


def test_a_factor_moves_from_the_norm_into_the_columns(module: nn.Linear) -> None:
    norm = nn.LayerNorm(CHANNELS).requires_grad_(False)
    norm.weight.uniform_(0.5, 2)
    norm.bias.normal_()
    x = layer_inputs()
    before, normed = module(norm(x)), norm(x)
    factor = torch.rand(CHANNELS) + 0.5
    apply_factor(LayerCall("layer", module, normed, norm=norm), factor)
    torch.testing.assert_close(norm(x), normed / factor)
    torch.testing.assert_close(module(norm(x)), before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("recipe", "activation", "codes"),
    [
        (NIBBLES, "gelu", "HLUQ"),
        (NIBBLES, "relu", "HLUQ"),
        (NIBBLES, None, "codebook per K tile"),
        (replace(NIBBLES, hluq=False), "gelu", "codebook per K tile"),
        (replace(NIBBLES, bits=5), "gelu", "HLUQ"),
        (replace(NIBBLES, bits=5), None, "uniform"),
        (replace(NIBBLES, cag="4"), None, "uniform"),
        (Recipe(byte_inputs=("layer",)), "gelu", "uniform"),
    ],
)
def test_codes_of_the_inputs_follow_the_recipe(
    module: nn.Linear, recipe: Recipe, activation: str | None, codes: str
) -> None:
    x = layer_inputs() if activation is None else layer_inputs().relu()
    result = quantize(module, x, recipe, activation=activation)
    assert result.choice["codes"] == codes
    assert result.layer.grid.bits == recipe.input_bits("layer")
    if codes == "uniform":
        assert all(torch.equal(levels, uniform_levels(result.layer.grid.bits)) for levels in result.layer.grid.levels)


def test_offsets_are_of_each_channel_with_tiles_and_of_the_group_otherwise(module: nn.Linear) -> None:
    x = layer_inputs()
    assert quantize(module, x, NIBBLES).layer.grid.offset.unique().numel() > CHANNELS // 2
    for cag in ("off", "4"):
        grid = quantize(module, x, replace(NIBBLES, cag=cag)).layer.grid
        assert grid.offset.unique().numel() <= grid.scale.numel()


def test_conditioning_gets_the_energy_of_the_layers_own_input_error_once(module: nn.Linear) -> None:
    module.weight.data = module.weight.data * torch.logspace(0, -3, OUTPUTS)[:, None]
    x = layer_inputs()
    noisy = x + 0.3 * torch.randn(x.shape)
    call = LayerCall("layer", module, x)
    result = quantize_dense([call], [replace(call, x=noisy)], replace(NIBBLES, acnr=True))
    grid = result.layer.grid
    error = x[:, grid.permutation] - grid.quantize(noisy)
    wanted = reduce_condition_number(module.weight[:, grid.permutation], error.T @ error / x.shape[0], iterations=200)
    assert result.conditioned is not None and not wanted.skipped
    torch.testing.assert_close(result.conditioned.weight, wanted.weight, rtol=0, atol=1e-6)
    twice = reduce_condition_number(
        module.weight[:, grid.permutation], 2 * error.T @ error / x.shape[0], iterations=200
    )
    assert float((twice.weight - wanted.weight).abs().max()) > 1e-5
    assert quantize(module, x, NIBBLES).conditioned is None


def test_compensation_gives_back_the_function_that_conditioning_changed(module: nn.Linear) -> None:
    """Small singular values are raised, but what is asked of the layer is still what the float weight gives."""
    module.weight.data = module.weight.data * torch.logspace(0, -3, OUTPUTS)[:, None]
    x = layer_inputs(4000)
    call = LayerCall("layer", module, x)
    errors: dict[bool | str, float] = {}
    for acnr in (False, True):
        result = quantize_dense([call], [call], Recipe(acnr=acnr, byte_inputs=("*",)))
        errors[acnr] = float((result.layer(x) - module(x)).square().mean())
        if result.conditioned is not None:
            changed = result.conditioned.weight - module.weight[:, result.layer.grid.permutation]
            errors["conditioned"] = float((x[:, result.layer.grid.permutation] @ changed.T).square().mean())
    assert errors[True] < 0.5 * errors["conditioned"] and errors[True] < 2 * errors[False], errors


def test_the_bias_takes_up_what_is_left_of_the_mean(module: nn.Linear) -> None:
    x = layer_inputs()
    call = LayerCall("layer", module, x)
    layer = quantize_dense([call], [replace(call, x=0.9 * x)], NIBBLES).layer
    error = layer(0.9 * x) - module(x)
    assert float(error.mean(dim=0).abs().max()) < 1e-4
    assert float(error.square().mean()) < 0.1 * float(module(x).var(dim=0).mean())


def test_compensation_beats_rounding_to_nearest_on_the_layers_output(module: nn.Linear) -> None:
    """With inputs in bytes, so that the weights make the error."""
    x = layer_inputs(4000)
    call = LayerCall("layer", module, x)
    nearest, compensated = (
        quantize_dense([call], [call], Recipe(compensate=compensate, byte_inputs=("*",))).layer
        for compensate in (False, True)
    )
    assert float((compensated(x) - module(x)).square().mean()) < 0.5 * float((nearest(x) - module(x)).square().mean())


@pytest.mark.parametrize(("groups", "distinct"), [("channel", 1), ("tile", 2)])
def test_scales_of_weights_are_stored_per_tile_whatever_they_were_chosen_for(
    module: nn.Linear, groups: str, distinct: int
) -> None:
    result = quantize(module, layer_inputs(), replace(NIBBLES, weight_groups=groups))  # type: ignore[arg-type]
    scale = result.layer.weight.scale
    assert scale.shape == (2, OUTPUTS) and result.layer.weight.group == 64
    assert scale.unique(dim=0).shape[0] == distinct
    integers = result.layer.weight.integers
    assert torch.equal(integers, integers.round()) and integers.min() >= -8 and integers.max() <= 7


def test_the_patch_embedding_has_eight_bits_whatever_the_recipe(module: nn.Linear) -> None:
    result = quantize(module, layer_inputs(), NIBBLES, name="image_encoder.patch_embed.proj")
    assert result.layer.grid.bits == result.layer.weight.bits == 8
    assert float(result.layer.weight.integers.abs().max()) > 8


def test_a_convolution_without_a_bias_is_the_matrix_of_its_neighbourhoods() -> None:
    torch.manual_seed(5)
    convolution = nn.Conv2d(9, 6, 3, padding=1, bias=False).requires_grad_(False)
    x = torch.randn(1, 12, 12, 9)
    result = quantize(convolution, im2col(x), replace(NIBBLES, bits=8, byte_inputs=("*",)))
    wanted = convolution(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    assert result.layer.weight.integers.shape == (6, 81)
    assert float((result.layer(im2col(x)) - wanted).square().mean()) < 2e-2 * float(wanted.var())
