"""Layer by layer calibration on a network small enough to check by hand."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from quant.calibrate import Calibrator
from quant.fake_quant import fake_quant_runner
from quant.models.layer_call import LayerCall, NormCall, Steps, run
from quant.recipe import NONE, Recipe, strict

NIBBLES = strict(Recipe(hluq=False))


class TwoLayers(nn.Module):
    """LayerNorm, linear, GELU, linear with a residual: (1, tokens, 70)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(70)
        self.first = nn.Linear(70, 130)
        self.second = nn.Linear(130, 70)

    def steps(self, x: Tensor) -> Steps[Tensor]:
        normed = yield NormCall("norm", self.norm, x)
        hidden = yield LayerCall("first", self.first, normed, norm=self.norm)
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


def calibrate(network: TwoLayers, pictures: list[Tensor], recipe: Recipe) -> Calibrator:
    """Calibrated on all pictures but the last."""
    calibrator = Calibrator(recipe, lambda _: None)
    with torch.no_grad():
        calibrator.run([network.steps(x) for x in pictures[:-1]], [network.steps(x) for x in pictures[:-1]])
    return calibrator


def error_of(network: TwoLayers, pictures: list[Tensor], recipe: Recipe) -> float:
    """Relative squared error on the last picture, calibrated on the others."""
    wanted = run(network.steps(pictures[-1]))
    found = calibrate(network, pictures, recipe).found
    assert list(found.quantized) == ["first", "second"]
    reached = run(network.steps(pictures[-1]), fake_quant_runner(found.quantized))
    return float((reached - wanted).square().mean() / (wanted - pictures[-1]).var())


def test_compensation_beats_rounding_to_nearest(network: TwoLayers, pictures: list[Tensor]) -> None:
    nearest = error_of(network, pictures, NONE)
    assert error_of(network, pictures, NIBBLES) < 0.7 * nearest


def test_byte_inputs_lower_the_error(network: TwoLayers, pictures: list[Tensor]) -> None:
    nibbles = error_of(network, pictures, NIBBLES)
    assert error_of(network, pictures, replace(NIBBLES, byte_inputs=("*",))) < nibbles


def test_equalising_leaves_the_float_function_alone(network: TwoLayers, pictures: list[Tensor]) -> None:
    before = run(network.steps(pictures[0]))
    calibrator = calibrate(network, pictures, NIBBLES)
    assert float(calibrator.found.factors["first"].std()) > 0.05
    torch.testing.assert_close(run(network.steps(pictures[0])), before, rtol=1e-4, atol=1e-3)


def test_magnitudes_of_every_operation_are_noted(network: TwoLayers, pictures: list[Tensor]) -> None:
    found = calibrate(network, pictures, replace(NIBBLES, cag="off")).found
    assert set(found.largest) == {"norm", "first", "second"}
    normed = max(float(network.norm(x).abs().max()) for x in pictures[:-1])
    assert found.largest["norm"] == pytest.approx(normed, rel=1e-5)


def test_every_quantized_layer_is_reported(network: TwoLayers, pictures: list[Tensor]) -> None:
    reports = calibrate(network, pictures, replace(NIBBLES, acnr=True)).found.reports
    assert list(reports) == ["first", "second"]
    for report in reports.values():
        assert 0 < report.output_error < 0.5
        assert report.condition_before is not None and report.condition_after is not None
