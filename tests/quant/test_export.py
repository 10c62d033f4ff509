"""Calibrated layers to integers, and the folder read back."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from quant.activation import fit_activation_grid
from quant.agreement import FloatTwin, compare, dequantize
from quant.byte_grid import fit_byte_grid
from quant.export import WIDE_MARGIN, choose_wide_exponent, integer_layer, is_quantized, largest_mantissa
from quant.fake_quant import FakeQuantLinear
from quant.gptq import RoundedWeight, round_nearest
from quant.models.lite_medsam import LiteMedSam
from quant.quantize import QUANTIZED_LAYERS, quantized_names
from sim.contract.constants import (
    BIAS_BITS,
    BIAS_FRACTION_BITS,
    SCALE_BITS,
    SCALE_FRACTION_BITS,
    WIDE_BITS,
)
from sim.contract.folder import read_folder, write_folder
from sim.contract.linear import QuantizedLinear, linear

MANIFEST = {"model": "m", "bits": 4, "source": {}, "created": {}, "architecture": {}}


def calibrated(inputs: int = 150, outputs: int = 20, *, byte: bool = False) -> tuple[FakeQuantLinear, Tensor]:
    """A layer with far means and wide scales, and inputs (500, K) for it."""
    torch.manual_seed(9)
    x = torch.randn(500, inputs) * (0.05 + torch.rand(inputs)) + 3 * torch.randn(inputs)
    weight = torch.randn(outputs, inputs) * torch.logspace(-1, 1, outputs)[:, None]
    grid = fit_byte_grid(x) if byte else fit_activation_grid(x, torch.ones(inputs))
    return FakeQuantLinear(
        grid, round_nearest(weight[:, grid.permutation], torch.ones(inputs)), torch.randn(outputs)
    ), x


@pytest.mark.parametrize("byte", [False, True])
def test_integer_layer_agrees_with_fake_quantization(byte: bool) -> None:
    layer, x = calibrated(byte=byte)
    wanted = layer(x)
    exported = integer_layer("layer", layer, float(wanted.abs().max()))
    wide = linear(exported.encode(x.numpy()), exported)
    error = np.abs(np.ldexp(wide.astype(float), exported.wide_exponent) - wanted.numpy())
    # Half a step of output rounding, the bias, and half a mantissa step per unit of every (offset) tile sum.
    real = torch.from_numpy(dequantize(exported.encode(x.numpy()), exported))
    sums = np.zeros(wide.shape)
    for tile, at in exported.tile_slices():
        level_sum = real[:, at].numpy() @ exported.weight[:, at].T.astype(float)
        sums += np.abs(level_sum) / float(exported.activation_scale[tile])
    bound = 0.5 + 1 / 256 + sums.max() * 0.5 / (1 << SCALE_FRACTION_BITS)
    assert error.max() <= (bound + 1e-3) * 2.0**exported.wide_exponent


def test_offsets_fold_into_the_bias_exactly() -> None:
    """Moving every input and its offset by whole levels moves no output by more than a bias step."""
    layer, _ = calibrated()
    shift = torch.arange(150) % 7 - 3.0
    grid = layer.grid
    tile = torch.arange(150) // 64
    moved_grid = type(grid)(**{**vars(grid), "offset": grid.offset + shift})
    moved = FakeQuantLinear(moved_grid, layer.weight, layer.bias)
    constant = (layer.weight.dequantized() * (shift * grid.scale[tile])).sum(dim=1)
    moved = FakeQuantLinear(moved_grid, layer.weight, layer.bias - constant)
    one, other = (integer_layer("layer", each, 100.0) for each in (layer, moved))
    assert one.wide_exponent == other.wide_exponent
    drift = np.abs(one.bias.astype(np.int64) - other.bias.astype(np.int64))
    tile_error = 0.5 * np.abs(layer.weight.integers.numpy() * shift.numpy()).sum(axis=1)
    tile_error *= 2.0 ** (BIAS_FRACTION_BITS - SCALE_FRACTION_BITS)
    assert (drift <= 2 + tile_error).all()


@pytest.mark.parametrize("largest", [0.0, 1.0, 100.0, 5000.0])
def test_wide_exponent_is_the_smallest_that_fits(largest: float) -> None:
    scale, bias = 0.001, 2.0

    def fits(exponent: int) -> bool:
        return (
            scale * 2.0 ** (SCALE_FRACTION_BITS - exponent) <= 2**SCALE_BITS - 1
            and bias * 2.0 ** (BIAS_FRACTION_BITS - exponent) <= 2 ** (BIAS_BITS - 1) - 1
            and largest * WIDE_MARGIN * 2.0**-exponent <= 2 ** (WIDE_BITS - 1) - 1
        )

    exponent = choose_wide_exponent(np.array([[scale]]), np.array([bias]), largest, 1)
    assert fits(exponent) and not fits(exponent - 1)


def test_high_planes_fit_sixteen_bits() -> None:
    assert largest_mantissa(1) == 65535
    assert largest_mantissa(2) * 16 <= 65535


def test_no_accumulator_overflows_whatever_codes_arrive() -> None:
    for byte in (False, True):
        exported = integer_layer("layer", calibrated(byte=byte)[0], 0.0)
        assert exported.worst_accumulator().max() < 2**35
        # The bound is reached, not only respected: drive one output to its largest value.
        output = int(exported.worst_accumulator().argmax())
        codes = np.zeros((2, exported.in_features), np.uint8)
        for tile, at in exported.tile_slices():
            levels = exported.codebooks[tile]
            high, low = int(levels.argmax()), int(levels.argmin())
            codes[0, at] = np.where(exported.weight[output, at] > 0, high, low)
            codes[1, at] = np.where(exported.weight[output, at] > 0, low, high)
        sums = np.zeros(2, np.int64)
        for tile, at in exported.tile_slices():
            level = exported.codebooks[tile].astype(np.int64)[codes[:, at]]
            sums += (level @ exported.weight[output, at].astype(np.int64)) * int(exported.scale[tile, output])
        assert np.abs(sums).max() + abs(exported.aligned_bias()[output]) <= exported.worst_accumulator()[output]
        assert np.abs(sums).max() > 0.5 * exported.worst_accumulator()[output] - abs(exported.aligned_bias()[output])


def test_an_overflowing_layer_is_refused() -> None:
    layer, _ = calibrated(inputs=3328, outputs=2)
    exported = integer_layer("layer", layer, 0.0)
    fields = {name: getattr(exported, name) for name in exported.__dataclass_fields__}
    fields["scale"] = np.full_like(exported.scale, 65535)
    fields["weight"] = np.full_like(exported.weight, -8)
    fields["codebooks"] = np.tile(np.arange(-15, 1, dtype=np.int8), (exported.tiles, 1))
    fields["bias"] = np.full_like(exported.bias, 2**31 - 1)
    with pytest.raises(Exception, match="accumulator"):
        QuantizedLinear(**fields)


@pytest.mark.parametrize("inputs", [63, 64, 129])
@pytest.mark.parametrize("byte", [False, True])
def test_folder_round_trip_keeps_every_bit(tmp_path: Path, inputs: int, byte: bool) -> None:
    exported = integer_layer("block.layer", calibrated(inputs=inputs, byte=byte)[0], 10.0)
    write_folder(tmp_path / "model", {"block.layer": exported}, {"block.layer": "linear"}, {}, MANIFEST)
    back = read_folder(tmp_path / "model").layers["block.layer"]
    for name in exported.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(back, name), getattr(exported, name), err_msg=name)


def test_the_same_codes_differ_from_the_float_twin_by_rounding_alone() -> None:
    layer, x = calibrated()
    exported = integer_layer("layer", layer, float(layer(x).abs().max()))
    codes = exported.encode(x.numpy())
    result = compare(codes, linear(codes, exported), exported, FloatTwin.of(exported))
    assert result["max_abs_error_lsb"] <= 0.5 + 1e-6
    assert 0.2 < result["mean_abs_error_lsb"] < 0.3
    assert result["bound_lsb"] < 1.5 and result["saturated"] == 0
    wrong = compare(codes, linear(codes, exported) + np.int16(1), exported, FloatTwin.of(exported))
    assert wrong["max_abs_error_lsb"] > 0.9


def test_a_scale_below_one_mantissa_step_does_not_vanish() -> None:
    layer, _ = calibrated(inputs=64, outputs=2)
    scale = torch.tensor([[1.0, 1e-9]])
    faint = FakeQuantLinear(layer.grid, RoundedWeight(layer.weight.integers, scale), layer.bias)
    assert integer_layer("layer", faint, 1.0).scale.min() == 1


def test_which_layers_are_quantized(lite_medsam: LiteMedSam) -> None:
    names = quantized_names(lite_medsam)
    assert len(names) == QUANTIZED_LAYERS
    assert "image_encoder.neck.2" in names and "image_encoder.layers.0.blocks.0.conv1.c" in names
    assert not any(part in name for name in names for part in ("patch_embed", "local_conv", "conv2", "mlps.1."))
    assert not is_quantized("prompt_encoder.mask_downscaling.0", lite_medsam.prompt_encoder.mask_downscaling[0])
