"""Calibrated layers and float remainder to a model folder."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from quant.byte_grid import ByteGrid
from quant.channel_groups import tile_of_position
from quant.fake_quant import FakeQuantLinear
from quant.models.checkpoint import LITE_MEDSAM
from quant.models.lite_medsam import DECODER_DEPTH, DECODER_HEADS, DECODER_MLP, LiteMedSam
from quant.models.tiny_vit import EXPANSION, LITE_MEDSAM_STAGES, NECK_CHANNELS
from sim.contract.arithmetic import signed_limits
from sim.contract.constants import BIAS_BITS, BIAS_FRACTION_BITS, CODES, SCALE_BITS, SCALE_FRACTION_BITS, WIDE_BITS
from sim.contract.folder import quantize_weight_only, write_folder
from sim.contract.linear import QuantizedLinear, expand_planes
from sim.picture import INPUT_SIDE

WIDE_MARGIN = 1.5
"""Largest output seen in calibration times this must fit a wide result."""

WEIGHT_ONLY_8_BIT = (
    "mask_decoder.output_upscaling.0.weight",
    "mask_decoder.output_upscaling.3.weight",
    "mask_decoder.output_hypernetworks_mlps.0.layers.2.weight",
    "mask_decoder.iou_prediction_head.layers.2.weight",
)
"""Parameters stored as int8 with one scale per output channel."""

NOT_EXPORTED = (
    *(f"mask_decoder.output_hypernetworks_mlps.{index}." for index in (1, 2, 3)),
    "prompt_encoder.mask_downscaling.",
    "prompt_encoder.point_embeddings.0.",
    "prompt_encoder.point_embeddings.1.",
    "prompt_encoder.not_a_point_embed.",
)
"""What a box prompt with one mask never uses: heads of the other mask tokens, mask and point prompts."""

FULL_PRECISION = ("prompt_encoder.pe_layer.", "image_encoder.patch_embed.")
"""Stored as float32, the rest as float16: frequencies that are multiplied by 2 pi, and the first layer's colours."""


def channel_axis(name: str) -> int:
    """Axis of the output channels of a weight stored in 8 bits: 1 for transposed convolutions, else 0."""
    return 1 if ".output_upscaling." in name else 0


def _stored(name: str, array: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    """What the folder stores for a float parameter: `float.NAME`, or `int8.NAME` and its scale."""
    if name in WEIGHT_ONLY_8_BIT:
        integers, scale = quantize_weight_only(array, channel_axis(name))
        return {f"int8.{name}": integers, f"int8.{name}.scale": scale}
    return {f"float.{name}": array if name.startswith(FULL_PRECISION) else array.astype(np.float16)}


def round_stored_weights(model: nn.Module) -> None:
    """Round the parameters that stay outside quantized layers to what the folder keeps of them, in place.

    Calibration then sees the model that will be read back. Weights of quantized layers are left alone.
    """
    for name, parameter in model.named_parameters():
        owner = model.get_submodule(name.rpartition(".")[0])
        if is_quantized(name.rpartition(".")[0], owner):
            continue
        stored = list(_stored(name, parameter.detach().numpy()).values())
        value = stored[0].astype(np.float32)
        parameter.data = torch.from_numpy(value * stored[1] if len(stored) == 2 else value)


def choose_wide_exponent(
    scale: NDArray[np.float64], bias: NDArray[np.float64], largest_output: float, planes: int
) -> int:
    """The smallest exponent with which every scale, the bias and WIDE_MARGIN * largest_output fit their widths.

    scale: real (tiles, N) of the low plane, positive. bias: real (N,), offsets folded in. largest_output: real.
    """
    scale_limit = largest_mantissa(planes) / (1 << SCALE_FRACTION_BITS)
    bias_limit = signed_limits(BIAS_BITS)[1] / (1 << BIAS_FRACTION_BITS)
    output_limit = signed_limits(WIDE_BITS)[1] / WIDE_MARGIN
    needed = max(
        float(scale.max()) / scale_limit, float(np.abs(bias).max()) / bias_limit, largest_output / output_limit
    )
    return math.ceil(math.log2(max(needed, 2.0**-64)))


def largest_mantissa(planes: int) -> int:
    """The largest scale of a low plane: a high plane's is sixteen times as large and must fit too."""
    return ((1 << SCALE_BITS) - 1) // CODES ** (planes - 1)


def integer_layer(name: str, layer: FakeQuantLinear, largest_output: float) -> QuantizedLinear:
    """The integer form of a calibrated layer.

    scale[t, n] = round(s_act[t] * s_w[t, n] / 2**wide_exponent * 2**10); a scale that would round to zero becomes 1.
    The bias holds the offsets of the inputs, computed with the rounded scales so that they fold in exactly.
    QuantizedLinear itself proves, from the actual weights, that no accumulator can overflow, and raises otherwise.
    """
    planes = 2 if isinstance(layer.grid, ByteGrid) else 1
    activation_scale = layer.grid.scale.double().numpy()
    offset = layer.grid.offset.double().numpy()
    integers = layer.weight.integers.double().numpy()
    scale = activation_scale[:, None] * layer.weight.scale.double().numpy()
    exponent = choose_wide_exponent(scale, layer.folded_bias().numpy(), largest_output, planes)
    mantissa = np.rint(np.ldexp(scale, SCALE_FRACTION_BITS - exponent)).clip(1, largest_mantissa(planes))
    tile = tile_of_position(offset.size).numpy()
    constant = (np.ldexp(mantissa, exponent - SCALE_FRACTION_BITS)[tile].T * integers) @ offset
    bias = np.rint(np.ldexp(layer.bias.double().numpy() + constant, BIAS_FRACTION_BITS - exponent))
    parts: dict[str, Any] = {
        "weight": integers.astype(np.int8),
        "scale": mantissa.astype(np.uint16),
        "bias": bias.astype(np.int32),
        "wide_exponent": exponent,
        "permutation": layer.grid.permutation.numpy().astype(np.uint16),
        "activation_scale": layer.grid.scale.numpy().astype(np.float32),
        "activation_offset": layer.grid.offset.numpy().astype(np.float32),
    }
    if isinstance(layer.grid, ByteGrid):
        return expand_planes(name, **parts)
    return QuantizedLinear(name=name, codebooks=layer.grid.codebooks.numpy(), **parts)


def is_quantized(name: str, module: nn.Module) -> bool:
    """Whether the layer `name` is quantized to 4 bits.

    All linear layers and dense convolutions are, but the patch embedding, the upscaling and the last layers of
    the decoder's heads, and what a box prompt with one mask does not use.
    """
    if name.startswith(("image_encoder.patch_embed.", *NOT_EXPORTED)) or f"{name}.weight" in WEIGHT_ONLY_8_BIT:
        return False
    return isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)


def layer_kind(module: nn.Module) -> str:
    """Kind of a quantized module for the manifest: linear, conv1x1 or conv3x3."""
    if isinstance(module, nn.Conv2d):
        return f"conv{module.kernel_size[0]}x{module.kernel_size[0]}"
    return "linear"


def architecture() -> dict[str, Any]:
    """The numbers that the golden model needs to run the network."""
    return {
        "input_side": INPUT_SIDE,
        "stages": [vars(stage) for stage in LITE_MEDSAM_STAGES],
        "expansion": EXPANSION,
        "neck_channels": NECK_CHANNELS,
        "decoder": {"depth": DECODER_DEPTH, "heads": DECODER_HEADS, "mlp_channels": DECODER_MLP},
        "layer_norm_epsilon": {"transformer": 1e-5, "channels_first": 1e-6},
    }


def remaining_tensors(model: LiteMedSam, quantized: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Everything the folder stores beside quantized layers: `float.NAME`, or `int8.NAME` with its scale."""
    tensors: dict[str, NDArray[Any]] = {}
    for name, value in model.state_dict().items():
        if name.rpartition(".")[0] not in quantized and not name.startswith(NOT_EXPORTED):
            tensors |= _stored(name, value.detach().numpy().astype(np.float32))
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
