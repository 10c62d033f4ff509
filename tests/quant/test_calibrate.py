"""Layer by layer calibration on a network small enough to check by hand."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from quant import calibrate as calibrate_module
from quant.calibrate import Calibrator
from quant.fake_quant import FakeQuantAttention, fake_quant_runner
from quant.models.layer_call import AttentionCall, Call, LayerCall, NormCall, Steps, run
from quant.quantize_layer import QuantizedDense
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


class Attending(nn.Module):
    """Projections to q, k and v, attention of one head, linear, GELU, linear: (1, tokens, 32)."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(32, 32) for _ in range(4))
        self.last = nn.Linear(32, 32)

    def steps(self, x: Tensor) -> Steps[Tensor]:
        q = yield LayerCall("q", self.q, x)
        k = yield LayerCall("k", self.k, x)
        v = yield LayerCall("v", self.v, x)
        mixed = (yield AttentionCall("attend", q[:, None], k[:, None], v[:, None], 32**-0.5))[:, 0]
        hidden = functional.gelu((yield LayerCall("out", self.out, mixed)))
        return (yield LayerCall("last", self.last, hidden, activation="gelu"))


def operands(call: Call) -> list[Tensor]:
    """What enters a dense layer or an attention."""
    return (
        [call.q, call.k, call.v] if isinstance(call, AttentionCall) else [call.x] if isinstance(call, LayerCall) else []
    )


def test_every_statistic_is_of_the_model_as_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of no earlier one: with weights conditioned and inputs quantized wherever they will be.

    In the public code HLUQ and LNQ keep what they saw before weights were conditioned, and other ranges are means of
    before and after.
    """
    torch.manual_seed(5)
    network = Attending().requires_grad_(False)
    for module in network.children():
        module.get_parameter("weight").data *= 4 * torch.logspace(0, -3, 32)[:, None]
    pictures = [torch.randn(1, 50, 32, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    seen: dict[str, list[Tensor]] = {}
    dense, attention = calibrate_module.quantize_dense, calibrate_module.quantize_attention

    def noted_dense(float_calls: list[LayerCall], calls: list[LayerCall], recipe: Recipe) -> QuantizedDense:
        seen[calls[0].name] = [one for call in calls for one in operands(call)]
        return dense(float_calls, calls, recipe)

    def noted_attention(
        calls: list[AttentionCall], recipe: Recipe
    ) -> tuple[FakeQuantAttention, dict[str, Any], Tensor]:
        seen[calls[0].name] = [one for call in calls for one in operands(call)]
        return attention(calls, recipe)

    monkeypatch.setattr(calibrate_module, "quantize_dense", noted_dense)
    monkeypatch.setattr(calibrate_module, "quantize_attention", noted_attention)
    calibrator = Calibrator(replace(strict(Recipe()), acnr=True), lambda _: None)
    with torch.no_grad():
        calibrator.run([network.steps(x) for x in pictures], [network.steps(x) for x in pictures])
    choices = {name: report.choice["codes"] for name, report in calibrator.found.reports.items()}
    assert (choices["last"], choices["attend"]) == ("HLUQ", "LNQ")
    for name in ("q", "k", "v", "out", "last"):
        report = calibrator.found.reports[name]
        assert report.condition_before is not None and report.condition_after is not None
        assert report.condition_after < report.condition_before / 2
    runs: dict[str, list[Tensor]] = {}
    in_float: dict[str, list[Tensor]] = {}

    def recording(into: dict[str, list[Tensor]], handler: Callable[[Call], Tensor]) -> Callable[[Call], Tensor]:
        def noted(call: Call) -> Tensor:
            into.setdefault(call.name, []).extend(operands(call))
            return handler(call)

        return noted

    for x in pictures:
        run(network.steps(x), recording(runs, fake_quant_runner(calibrator.found.quantized)))
        run(network.steps(x), recording(in_float, lambda call: call.compute()))
    assert list(seen) == list(runs) == ["q", "k", "v", "attend", "out", "last"]
    for name, statistics in seen.items():
        assert all(torch.equal(*pair) for pair in zip(statistics, runs[name], strict=True)), name
        assert name in ("q", "k", "v") or not torch.equal(statistics[0], in_float[name][0]), name
