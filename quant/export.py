"""Calibrated layers and float remainder to a model folder."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from quant.fake_quant import FakeQuantLinear
from quant.models.checkpoint import LITE_MEDSAM
from quant.models.lite_medsam import DECODER_DEPTH, DECODER_HEADS, DECODER_MLP, EMBEDDING_SIDE, LiteMedSam
from quant.models.tiny_vit import EXPANSION, LITE_MEDSAM_STAGES, NECK_CHANNELS
from sim.contract.arithmetic import signed_limits
from sim.contract.constants import BIAS_BITS, BIAS_FRACTION_BITS, SCALE_BITS, SCALE_FRACTION_BITS, WIDE_BITS
from sim.contract.folder import quantize_weight_only, write_folder
from sim.contract.linear import QuantizedLinear
from sim.picture import INPUT_SIDE

WIDE_MARGIN = 1.5
"""Largest output seen in calibration times this must fit a wide result."""

WEIGHT_ONLY_8_BIT = (
    "mask_decoder.output_upscaling.0.weight",
    "mask_decoder.output_upscaling.3.weight",
    "mask_decoder.output_hypernetworks_mlps.0.layers.0.weight",
    "mask_decoder.output_hypernetworks_mlps.0.layers.1.weight",
    "mask_decoder.output_hypernetworks_mlps.0.layers.2.weight",
    "mask_decoder.iou_prediction_head.layers.0.weight",
    "mask_decoder.iou_prediction_head.layers.1.weight",
    "mask_decoder.iou_prediction_head.layers.2.weight",
)
"""Parameters stored as int8 with one scale per output channel."""

NOT_EXPORTED = tuple(f"mask_decoder.output_hypernetworks_mlps.{index}." for index in (1, 2, 3))
"""Heads of the mask tokens that a single-mask output never uses."""


def channel_axis(name: str) -> int:
    """Axis of the output channels of a weight stored in 8 bits: 1 for transposed convolutions, else 0."""
    return 1 if ".output_upscaling." in name else 0


def round_stored_weights(model: nn.Module) -> None:
    """Replace the weights that are stored in 8 bits by what storage keeps of them, in place."""
    for name in WEIGHT_ONLY_8_BIT:
        parameter = model.get_parameter(name)
        integers, scale = quantize_weight_only(parameter.detach().numpy(), channel_axis(name))
        parameter.data = torch.from_numpy(integers.astype(np.float32) * scale)


def choose_wide_exponent(scale: NDArray[np.float64], bias: NDArray[np.float64], largest_output: float) -> int:
    """The smallest exponent with which every scale, the bias and WIDE_MARGIN * largest_output fit their widths.

    scale: real (tiles, N), positive. bias: real (N,), offsets folded in. largest_output: real.
    """
    scale_limit = ((1 << SCALE_BITS) - 1) / (1 << SCALE_FRACTION_BITS)
    bias_limit = signed_limits(BIAS_BITS)[1] / (1 << BIAS_FRACTION_BITS)
    output_limit = signed_limits(WIDE_BITS)[1] / WIDE_MARGIN
    needed = max(float(scale.max()) / scale_limit, float(np.abs(bias).max()) / bias_limit, largest_output / output_limit)
    return math.ceil(math.log2(max(needed, 2.0**-64)))


def integer_layer(name: str, layer: FakeQuantLinear, largest_output: float) -> QuantizedLinear:
    """The integer form of a calibrated layer.

    scale[t, n] = round(s_act[t] * s_w[t, n] / 2**wide_exponent * 2**16); a scale that would round to zero becomes 1.
    The bias holds the offsets of the inputs, computed with the rounded scales so that they fold in exactly.
    QuantizedLinear itself proves, from the actual weights, that no accumulator can overflow, and raises otherwise.
    """
    activation_scale = layer.grid.scale.double().numpy()
    offset = layer.grid.offset.double().numpy()
    integers = layer.weight.integers.double().numpy()
    scale = activation_scale[:, None] * layer.weight.scale.double().numpy()
    exponent = choose_wide_exponent(scale, layer.folded_bias().numpy(), largest_output)
    mantissa = np.rint(np.ldexp(scale, SCALE_FRACTION_BITS - exponent)).clip(1, (1 << SCALE_BITS) - 1)
    tile = np.arange(offset.size) // 64
    constant = (np.ldexp(mantissa, exponent - SCALE_FRACTION_BITS)[tile].T * integers) @ offset
    bias = np.rint(np.ldexp(layer.bias.double().numpy() + constant, BIAS_FRACTION_BITS - exponent))
    return QuantizedLinear(
        name=name,
        weight=integers.astype(np.int8),
        scale=mantissa.astype(np.uint16),
        bias=bias.astype(np.int32),
        codebooks=layer.grid.codebooks.numpy(),
        wide_exponent=exponent,
        permutation=layer.grid.permutation.numpy().astype(np.uint16),
        activation_scale=layer.grid.scale.numpy().astype(np.float32),
        activation_offset=layer.grid.offset.numpy().astype(np.float32),
    )


def layer_kind(module: nn.Module) -> str:
    """Kind of a quantized module for the manifest: linear, conv1x1 or conv3x3."""
    if isinstance(module, nn.Conv2d):
        return f"conv{module.kernel_size[0]}x{module.kernel_size[0]}"
    return "linear"


def architecture() -> dict[str, Any]:
    """The numbers that the golden model needs to run the network."""
    return {
        "input_side": INPUT_SIDE,
        "embedding_side": EMBEDDING_SIDE,
        "stages": [vars(stage) for stage in LITE_MEDSAM_STAGES],
        "expansion": EXPANSION,
        "neck_channels": NECK_CHANNELS,
        "decoder": {"depth": DECODER_DEPTH, "heads": DECODER_HEADS, "mlp_channels": DECODER_MLP, "attention_downsample": 2},
        "layer_norm_epsilon": {"transformer": 1e-5, "channels_first": 1e-6},
    }


def remaining_tensors(model: LiteMedSam, quantized: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Everything the folder stores beside quantized layers: `float.NAME`, or `int8.NAME` with its scale."""
    tensors: dict[str, NDArray[Any]] = {}
    for name, value in model.state_dict().items():
        if name.rpartition(".")[0] in quantized or name.startswith(NOT_EXPORTED):
            continue
        array = value.detach().numpy().astype(np.float32)
        if name in WEIGHT_ONLY_8_BIT:
            tensors[f"int8.{name}"], tensors[f"int8.{name}.scale"] = quantize_weight_only(array, channel_axis(name))
        else:
            tensors[f"float.{name}"] = array
    return tensors


def write_model(
    folder: Path, model: LiteMedSam, layers: Mapping[str, QuantizedLinear], created: Mapping[str, Any]
) -> None:
    """Write the model folder. Raises UserError when the place cannot be written."""
    source = {
        "file": LITE_MEDSAM.file,
        "sha256": LITE_MEDSAM.sha256,
        "license": LITE_MEDSAM.license,
        "origin": LITE_MEDSAM.origin,
    }
    manifest = {"model": "lite_medsam", "bits": 4, "source": source, "created": created, "architecture": architecture()}
    kinds = {name: layer_kind(model.get_submodule(name)) for name in layers}
    write_folder(folder, layers, kinds, remaining_tensors(model, layers), manifest)
