"""The float twin of every integer operation: the same codes, and integers off it by their roundings alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from quant import integers
from quant.agreement import PIECE, FakeQuantParameters, agreement, float_levels, float_result
from quant.integers import exponent_for
from sim.contract.encoder import Encoder
from sim.contract.layer import QuantizedLayer
from sim.contract.residual import Residual
from sim.contract.serialize import Operation
from sim.contract.wide import Wide, to_wide
from sim.golden.parameters import Executed, Parameters

CHANNELS = 70


def wide(shape: tuple[int, ...], spread: float = 3.0, seed: int = 0) -> Wide:
    values = np.random.default_rng(seed).normal(0, spread, shape).astype(np.float32)
    return to_wide(values, exponent_for(float(np.abs(values).max())))


def encoder(levels: NDArray[np.int8], exponent: int) -> Encoder:
    """Channels in another order, two tiles of unlike shifts."""
    generator = np.random.default_rng(1)
    return Encoder(
        name="layer.encoder",
        input_exponent=exponent,
        permutation=generator.permutation(CHANNELS).astype(np.uint16),
        multiplier=generator.integers(300, 900, CHANNELS).astype(np.int16),
        addend=np.full(CHANNELS, 255 << 16, np.int32),
        shift=np.array([16, 16], np.uint8),
        levels=levels,
    )


NIBBLES = np.stack([np.arange(-8, 8), 2 * np.arange(-8, 8) + 1]).astype(np.int8)
BYTES = np.arange(-128, 128)[None].astype(np.int8)


def dense(levels: NDArray[np.int8], exponent: int) -> QuantizedLayer:
    generator = np.random.default_rng(2)
    return QuantizedLayer(
        name="layer",
        encoder=encoder(levels, exponent),
        weight=generator.integers(-8, 8, (9, CHANNELS)).astype(np.int8),
        scale=generator.integers(50, 200, (2, 9)).astype(np.uint16),
        bias=generator.integers(-4000, 4000, 9).astype(np.int32),
        wide_exponent=-6,
    )


def executed(operation: Operation, *inputs: Wide) -> Executed:
    codes, output = Parameters({}, {}).execute(operation, inputs)
    return Executed(operation.name, operation, inputs, codes, output)


@pytest.mark.parametrize("levels", [NIBBLES, BYTES], ids=["nibbles", "bytes"])
def test_levels_of_whole_numbers_are_those_of_the_encoder(levels: NDArray[np.int8]) -> None:
    x = wide((50, CHANNELS))
    made = encoder(levels, x.exponent)
    expected = made.level(made.encode(x))
    assert np.array_equal(float_levels(made, x.values.astype(float)), expected)
    assert len(np.unique(expected)) > 10


def test_a_level_changes_at_the_threshold_and_not_at_the_whole_number_beside_it() -> None:
    made = encoder(NIBBLES, -8)
    x = np.linspace(-300, 300, 6001)[:, None] * np.ones(CHANNELS)
    levels = float_levels(made, x)
    assert bool((np.diff(levels, axis=0) >= 0).all())
    steps = np.abs(np.diff(levels, axis=0)).sum(axis=0)
    assert bool((steps > 0).all())
    whole = float_levels(made, np.floor(x))
    assert bool((whole <= levels).all()) and not np.array_equal(whole, levels)


@pytest.mark.parametrize("levels", [NIBBLES, BYTES], ids=["nibbles", "bytes"])
def test_a_dense_layer_is_off_by_half_a_step_at_most(levels: NDArray[np.int8]) -> None:
    x = wide((4, 5, CHANNELS))
    layer = dense(levels, x.exponent)
    expected = float_result(layer, (x,))
    found = layer.run(x)[1].values
    assert expected.shape == found.shape == (4, 5, 9) and float(expected.std()) > 5
    inside = np.abs(found) < 32767
    assert 0.1 < float(np.abs(found - expected)[inside].max()) <= 0.5


def test_the_dense_twin_equals_itself_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    x = wide((40, CHANNELS))
    layer = dense(NIBBLES, x.exponent)
    whole = float_result(layer, (x,))
    monkeypatch.setattr("quant.agreement.CHUNK_TOKENS", 7)
    np.testing.assert_allclose(float_result(layer, (x,)), whole, rtol=1e-12)


def test_an_addition_is_off_by_half_a_step_at_most() -> None:
    first, second = wide((6, 4), 5.0), wide((6, 4), 0.3, seed=1)
    add = Residual("add", first.exponent, second.exponent, exponent_for(20.0))
    expected = float_result(add, (first, second))
    real = np.ldexp(first.values.astype(float), first.exponent) + np.ldexp(second.values.astype(float), second.exponent)
    np.testing.assert_allclose(expected, np.ldexp(real, -add.wide_exponent))
    assert 0 < float(np.abs(add.run(first, second).values - expected).max()) <= 0.5


@pytest.mark.parametrize("stride", [1, 2])
def test_a_depthwise_convolution_is_torchs_and_off_by_half_a_step(stride: int) -> None:
    torch.manual_seed(0)
    module = nn.Conv2d(5, 5, 3, stride, 1, groups=5).requires_grad_(False)
    integers.round_depthwise(module)
    x = wide((9, 7, 5))
    layer = integers.depthwise("depthwise", module, x.exponent, 9.0)
    expected = float_result(layer, (x,))
    torchs = module(torch.from_numpy(x.real()).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(np.ldexp(expected, layer.wide_exponent), torchs, rtol=1e-3, atol=2e-3)
    assert float(np.abs(layer.run(x).values - expected).max()) <= 0.51


def test_a_norm_is_torchs_and_off_by_its_fraction_bits() -> None:
    torch.manual_seed(0)
    module = nn.LayerNorm(CHANNELS).requires_grad_(False)
    module.weight.uniform_(0.5, 2)
    module.bias.normal_()
    x = wide((30, CHANNELS))
    norm = integers.layer_norm("norm", module, x.exponent, 8.0)
    expected = float_result(norm, (x,))
    torchs = module(torch.from_numpy(x.real())).numpy()
    np.testing.assert_allclose(np.ldexp(expected, norm.wide_exponent), torchs, rtol=2e-3, atol=2e-3)
    figures = agreement(executed(norm, x))
    assert 0.5 < figures["max_abs_error_lsb"] < 20 and figures["relative_error"] < 1e-3


def test_gelu_is_torchs() -> None:
    x = wide((40, 3), 2.0)
    table = integers.gelu("act", x.exponent, 9.0)
    torchs = torch.nn.functional.gelu(torch.from_numpy(x.real())).numpy()
    np.testing.assert_allclose(np.ldexp(float_result(table, (x,)), table.wide_exponent), torchs, rtol=1e-5, atol=1e-6)
    assert agreement(executed(table, x))["max_abs_error_lsb"] < 3


def test_figures_are_of_the_first_rows_and_say_why_they_differ() -> None:
    x = wide((PIECE + 20, CHANNELS))
    layer = dense(NIBBLES, x.exponent)
    figures = agreement(executed(layer, x))
    only = agreement(executed(layer, x.with_values(x.values[:PIECE])))
    assert figures == only
    assert (figures["name"], figures["kind"]) == ("layer", "QuantizedLayer")
    assert 0 < figures["mean_abs_error_lsb"] < figures["max_abs_error_lsb"] <= 0.5
    assert "half a step" in figures["explanation"]
    error = layer.run(x)[1].values[:PIECE] - float_result(layer, (x,))[:PIECE]
    expected = float_result(layer, (x,))[:PIECE]
    assert figures["relative_error"] == pytest.approx(np.sqrt(np.square(error).mean() / np.square(expected).mean()))


def test_saturated_results_are_counted_and_not_compared() -> None:
    x = wide((PIECE, CHANNELS))
    layer = dense(NIBBLES, x.exponent)
    bias = layer.bias.copy()
    bias[3] = 2**30
    figures = agreement(executed(replace(layer, bias=bias), x))
    assert figures["saturated"] == PIECE and figures["max_abs_error_lsb"] <= 0.5
    figures = agreement(executed(replace(layer, bias=np.full_like(bias, 2**30)), x))
    assert figures["saturated"] == 9 * PIECE
    assert figures["max_abs_error_lsb"] == figures["mean_abs_error_lsb"] == figures["relative_error"] == 0


def test_parameters_pass_on_what_is_not_rounded() -> None:
    first, second = wide((6, 4)), wide((6, 4), 0.3, seed=1)
    add = Residual("add", first.exponent, second.exponent, exponent_for(20.0))
    gelu = integers.gelu("act", add.wide_exponent, 9.0)
    parameters = FakeQuantParameters({}, {"add": add, "act": gelu})
    total = parameters.add("add", first, second)
    assert total.exponent == add.wide_exponent and not np.array_equal(total.values, np.rint(total.values))
    np.testing.assert_array_equal(total.values, float_result(add, (first, second)))
    np.testing.assert_array_equal(parameters.gelu("act", total).values, float_result(gelu, (total,)))
