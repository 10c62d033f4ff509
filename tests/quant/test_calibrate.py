"""Layer by layer calibration on a network small enough to check by hand."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from quant.calibrate import NEAREST, Recipe, quantize_in_step
from quant.fake_quant import FakeQuantLinear, fake_quant_runner
from quant.models.layer_call import LayerCall, Steps, call_layer, run

NIBBLES = Recipe(byte_inputs=())


class TwoLayers(nn.Module):
    """LayerNorm, linear, GELU, linear with a residual: (1, tokens, 70)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(70)
        self.first = nn.Linear(70, 130)
        self.second = nn.Linear(130, 70)

    def steps(self, x: Tensor) -> Steps[Tensor]:
        hidden = yield LayerCall("first", self.first, self.norm(x), norm=self.norm)
        return x + (yield LayerCall("second", self.second, functional.gelu(hidden), residual=x))


@pytest.fixture
def network() -> TwoLayers:
    torch.manual_seed(0)
    network = TwoLayers().requires_grad_(False)
    network.norm.weight.data = 0.1 + 3 * torch.rand(70)
    network.first.weight.data *= 4
    return network


@pytest.fixture
def pictures() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    mixing = torch.randn(70, 70, generator=generator)
    return [torch.randn(1, 600, 70, generator=generator) @ mixing for _ in range(3)]


def error_of(network: TwoLayers, pictures: list[Tensor], recipe: Recipe) -> float:
    """Relative squared error on the last picture, calibrated on the others."""
    wanted = run(network.steps(pictures[-1]))
    layers: dict[str, FakeQuantLinear] = {}
    quantize_in_step(
        [network.steps(x) for x in pictures[:-1]],
        [network.steps(x) for x in pictures[:-1]],
        recipe,
        lambda name, layer, largest: layers.update({name: layer}),
    )
    assert list(layers) == ["first", "second"]
    reached = run(network.steps(pictures[-1]), fake_quant_runner(layers))
    return float((reached - wanted).square().mean() / (wanted - pictures[-1]).var())


def test_compensation_beats_rounding_to_nearest(network: TwoLayers, pictures: list[Tensor]) -> None:
    nearest = error_of(network, pictures, NEAREST)
    assert error_of(network, pictures, NIBBLES) < 0.7 * nearest


def test_byte_inputs_lower_the_error(network: TwoLayers, pictures: list[Tensor]) -> None:
    nibbles = error_of(network, pictures, NIBBLES)
    assert error_of(network, pictures, replace(NIBBLES, byte_inputs=("*",))) < nibbles


def test_equalising_leaves_the_float_function_alone(network: TwoLayers, pictures: list[Tensor]) -> None:
    before = run(network.steps(pictures[0]))
    weight = network.norm.weight.clone()
    error_of(network, pictures, NIBBLES)
    assert not torch.equal(weight, network.norm.weight)
    torch.testing.assert_close(run(network.steps(pictures[0])), before, rtol=1e-3, atol=1e-2)


def test_results_and_largest_outputs_are_those_of_the_passes(network: TwoLayers, pictures: list[Tensor]) -> None:
    largest: dict[str, float] = {}
    layers: dict[str, FakeQuantLinear] = {}

    def done(name: str, layer: FakeQuantLinear, output: float) -> None:
        layers[name], largest[name] = layer, output

    wanted = [run(network.steps(x)) for x in pictures]
    passes = [[network.steps(x) for x in pictures] for _ in range(2)]
    recipe = replace(NIBBLES, equalise=False)
    float_results, results = quantize_in_step(passes[0], passes[1], recipe, done)
    for reached, expected in zip(float_results, wanted, strict=True):
        assert torch.equal(reached, expected)
    for reached, x in zip(results, pictures, strict=True):
        assert torch.equal(reached, run(network.steps(x), fake_quant_runner(layers)))
    inputs = [network.norm(x) for x in pictures]
    assert largest["first"] == max(float(layers["first"](x).abs().max()) for x in inputs)


def test_bias_takes_up_the_mean_error(network: TwoLayers, pictures: list[Tensor]) -> None:
    layers: dict[str, FakeQuantLinear] = {}
    passes = [[network.steps(x) for x in pictures] for _ in range(2)]
    recipe = replace(NIBBLES, equalise=False, max_tokens=10_000)
    quantize_in_step(passes[0], passes[1], recipe, lambda name, layer, _: layers.update({name: layer}))
    inputs = torch.cat([network.norm(x) for x in pictures])
    wanted = call_layer(LayerCall("first", network.first, inputs)).mean(dim=(0, 1))
    torch.testing.assert_close(layers["first"](inputs).mean(dim=(0, 1)), wanted, rtol=1e-3, atol=1e-3)


def test_recipe_patterns_name_whole_layers() -> None:
    recipe = Recipe()
    assert recipe.takes_bytes("image_encoder.layers.0.blocks.1.conv3.c")
    assert recipe.takes_bytes("image_encoder.layers.2.downsample.conv1.c")
    assert not recipe.takes_bytes("image_encoder.layers.2.blocks.0.attn.qkv")
    assert not NEAREST.takes_bytes("image_encoder.layers.0.blocks.1.conv3.c")
