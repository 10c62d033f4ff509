"""Calibrated operations to operations of the integer contract.

An exponent is chosen so that WIDE_MARGIN times the largest result of calibration fits 16 bits; multipliers, scales and
biases then follow from real values by one rounding each.
"""

import math
from dataclasses import replace
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from quant.channel_groups import tile_of_position
from quant.fake_quant import FakeQuantLinear
from quant.input_grid import InputGrid
from sim.contract.activation_table import ActivationTable, sample_function
from sim.contract.arithmetic import signed_limits
from sim.contract.constants import (
    BIAS_BITS,
    BIAS_FRACTION_BITS,
    CODES,
    SCALE_BITS,
    SCALE_FRACTION_BITS,
    TILE_CHANNELS,
    WIDE_BITS,
)
from sim.contract.depthwise import Depthwise
from sim.contract.encoder import ADDEND_LIMIT, ENCODER_INDICES, Encoder
from sim.contract.layer import QuantizedLayer, level_codebooks
from sim.contract.layer_norm import NORM_FRACTION_BITS, LayerNorm
from sim.contract.residual import Residual

Real = NDArray[np.float64]

WIDE_MARGIN: Final = 1.5
"""Largest magnitude seen in calibration times this must fit a wide result."""

LARGEST_SHIFT: Final = 30
MULTIPLIER_LIMIT: Final = 32767
SMALLEST_DEPTHWISE_RATIO: Final = 256
"""Weight scales of a depthwise convolution are at least the largest over this, so that all multipliers have 8 bits."""


def exponent_for(largest: float) -> int:
    """The smallest exponent with which WIDE_MARGIN * largest fits a wide number."""
    return math.ceil(math.log2(max(largest * WIDE_MARGIN / signed_limits(WIDE_BITS)[1], 2.0**-60)))


def accumulator_exponent(scale: Real, bias: Real, largest: float, shifts: int) -> int:
    """The smallest exponent with which scales (of the lowest pass), biases and WIDE_MARGIN * largest fit."""
    scale_limit = largest_scale(shifts) / (1 << SCALE_FRACTION_BITS)
    bias_limit = signed_limits(BIAS_BITS)[1] / (1 << BIAS_FRACTION_BITS)
    needed = max(float(scale.max()) / scale_limit, float(np.abs(bias).max()) / bias_limit, 2.0**-60)
    return max(math.ceil(math.log2(needed)), exponent_for(largest))


def nibble_shifts(first_planes: int, second_planes: int) -> int:
    """By how many nibbles the highest pass of two operands is above the lowest."""
    return first_planes + second_planes - 2


def largest_scale(shifts: int) -> int:
    """The largest scale of the lowest pass: the highest is 16**shifts times as large."""
    return ((1 << SCALE_BITS) - 1) // CODES**shifts


def _encoder(
    name: str, exponent: int, *, permutation: NDArray[np.uint16], scale: Real, offset: Real, levels: NDArray[np.int8]
) -> Encoder:
    """Encoder of inputs that stand for scale[p] * (level + offset[p]).

    The multiplier is rounded first; the addend then puts the middle of each channel's levels, level 0, where it
    belongs, so that a channel far from zero loses nothing by the multiplier's rounding.
    """
    gain = np.ldexp(2 / scale, exponent)
    centre = offset * scale * 2.0**-exponent
    half = ENCODER_INDICES // 2
    multiplier, addend, shifts = np.empty_like(gain), np.empty_like(gain), []
    for start in range(0, gain.size, TILE_CHANNELS):
        tile = slice(start, start + TILE_CHANNELS)
        for shift in range(LARGEST_SHIFT, -1, -1):
            wanted = np.rint(np.ldexp(gain[tile], shift))
            # Only a dead channel, whose levels are far finer than the steps of its input, is beyond even without shift.
            whole = wanted.clip(-MULTIPLIER_LIMIT, MULTIPLIER_LIMIT)
            # One less, so that a value on a threshold takes the lower level.
            start_index = np.rint(half * 2.0**shift - whole * centre[tile]) - 1
            if np.abs(wanted).max() <= MULTIPLIER_LIMIT and np.abs(start_index).max() <= ADDEND_LIMIT:
                break
        multiplier[tile], addend[tile] = whole, start_index
        shifts.append(shift)
    return Encoder(
        name=name,
        input_exponent=exponent,
        permutation=permutation,
        multiplier=multiplier.astype(np.int16),
        addend=addend.clip(-ADDEND_LIMIT, ADDEND_LIMIT).astype(np.int32),
        shift=np.array(shifts, np.uint8),
        levels=levels,
    )


def grid_encoder(name: str, exponent: int, grid: InputGrid) -> Encoder:
    """Encoder of a dense layer's input grid for wide inputs of the given exponent."""
    levels = torch.stack(grid.levels).numpy().astype(np.int8)
    if (levels == levels[0]).all():
        levels = levels[:1]
    tile = tile_of_position(grid.offset.numel())
    return _encoder(
        name,
        exponent,
        permutation=grid.permutation.numpy().astype(np.uint16),
        scale=grid.scale[tile].double().numpy(),
        offset=grid.offset.double().numpy(),
        levels=levels,
    )


def operand_encoder(name: str, exponent: int, scale: Tensor, offset: Tensor, limits: tuple[int, int]) -> Encoder:
    """Encoder of an attention operand: scale and offset float64 (channels,), offset the real value of level 0."""
    low, high = limits
    return _encoder(
        name,
        exponent,
        permutation=np.arange(scale.numel()).astype(np.uint16),
        scale=scale.numpy(),
        offset=(offset / scale).numpy(),
        levels=np.arange(low, high + 1).astype(np.int8)[None],
    )


def dense(name: str, layer: FakeQuantLinear, input_exponent: int, largest: float) -> QuantizedLayer:
    """The integer form of a calibrated dense layer.

    scale[t, n] = round(s_act[t] * s_w[t, n] / 2**wide_exponent * 2**10 * 16**nibbles), with as many nibbles as the
    highest pass has below it. The bias holds the offsets of the inputs.
    Where zero is within the levels of a channel, its offset counts in rounded scales: their rounding then costs nothing
    at zero, where most inputs are. Offsets of channels far from zero count in exact scales, or rounding would be
    multiplied by thousands of levels.
    """
    encoder = grid_encoder(name, input_exponent, layer.grid)
    weight_planes = 1 if layer.weight.bits == 4 else 2
    level_planes = max(len(level_codebooks(row)) for row in encoder.levels)
    shifts = nibble_shifts(weight_planes, level_planes)
    offset = layer.grid.offset.double().numpy()
    integers = layer.weight.integers.double().numpy()
    scale = layer.grid.scale.double().numpy()[:, None] * layer.weight.scale.double().numpy()
    exponent = accumulator_exponent(scale, layer.folded_bias().numpy(), largest, shifts)
    highest_pass = np.ldexp(scale, SCALE_FRACTION_BITS + 4 * shifts - exponent)
    made = QuantizedLayer(
        name=name,
        encoder=encoder,
        weight=integers.astype(np.int8),
        scale=np.rint(highest_pass).clip(0, (1 << SCALE_BITS) - 1).astype(np.uint16),
        bias=np.zeros(integers.shape[0], np.int32),
        wide_exponent=exponent,
        weight_planes=weight_planes,
    )
    tile = tile_of_position(offset.size).numpy()
    lowest, highest = (np.array([int(row[end]) for row in layer.grid.levels])[tile] for end in (0, -1))
    near = np.where((lowest <= -offset) & (-offset <= highest), offset, 0.0)
    at_zero = np.ldexp(made.products(-near[None])[0], exponent - SCALE_FRACTION_BITS)
    constant = (scale[tile].T * integers) @ (offset - near) - at_zero
    bias = np.rint(np.ldexp(layer.bias.double().numpy() + constant, BIAS_FRACTION_BITS - exponent))
    return replace(made, bias=bias.astype(np.int32))


def _shift_for(limits: list[tuple[Real, float]], largest: int) -> int:
    """The largest shift from 0 with which every |values| * 2**shift stays within its limit."""
    shifts = [math.floor(math.log2(limit / max(float(np.abs(values).max()), 1e-30))) for values, limit in limits]
    return max(0, min(largest, *shifts))


def layer_norm(name: str, module: Any, input_exponent: int, largest: float) -> LayerNorm:
    """The integer form of a LayerNorm: anything with `weight`, `bias` (C,) and `eps`."""
    weight, bias = module.weight.detach(), module.bias.detach()
    exponent = exponent_for(largest)
    channels = weight.numel()
    gain = np.ldexp(weight.double().numpy(), -NORM_FRACTION_BITS - exponent)
    offset = np.ldexp(bias.double().numpy(), -exponent)
    shift = _shift_for([(gain, 32767.0), (offset, 2.0**31 - 1)], 40)
    return LayerNorm(
        name=name,
        input_exponent=input_exponent,
        wide_exponent=exponent,
        epsilon=min(1 << 60, max(1, round(module.eps * channels**2 * 4.0**-input_exponent))),
        gain=np.rint(np.ldexp(gain, shift)).astype(np.int16),
        bias=np.rint(np.ldexp(offset, shift)).astype(np.int32),
        shift=shift,
    )


def gelu_real(x: Real) -> Real:
    """GELU of float64 values (Hendrycks and Gimpel, equation 1)."""
    return torch.nn.functional.gelu(torch.from_numpy(np.ascontiguousarray(x))).numpy()


def gelu(name: str, input_exponent: int, largest: float) -> ActivationTable:
    """The table of GELU."""
    return sample_function(name, gelu_real, input_exponent, exponent_for(largest))


def residual(name: str, first_exponent: int, second_exponent: int, largest: float) -> Residual:
    """An addition."""
    return Residual(name, first_exponent, second_exponent, exponent_for(largest))


def round_depthwise(module: nn.Conv2d) -> None:
    """Round the weights of a depthwise convolution to the 8-bit ones that the integer form has, in place."""
    integers, scale = _depthwise_weight(module)
    rounded = integers * scale[:, None, None]
    module.weight.data = torch.from_numpy(rounded[:, None]).to(module.weight.dtype)


def _depthwise_weight(module: nn.Conv2d) -> tuple[Real, Real]:
    """Integers (C, 3, 3) within [-127, 127] and scales (C,)."""
    weight = module.weight.detach().double().numpy()[:, 0]
    scale = np.abs(weight).max(axis=(1, 2)) / 127
    scale = np.maximum(scale, max(scale.max() / SMALLEST_DEPTHWISE_RATIO, 1e-12))
    return np.rint(weight / scale[:, None, None]), scale


def depthwise(name: str, module: nn.Conv2d, input_exponent: int, largest: float) -> Depthwise:
    """The integer form of a depthwise 3x3 convolution whose weights `round_depthwise` has rounded."""
    exponent = exponent_for(largest)
    integers, scale = _depthwise_weight(module)
    assert module.bias is not None
    gain = np.ldexp(scale, input_exponent - exponent)
    bias = np.ldexp(module.bias.detach().double().numpy(), -exponent)
    shift = _shift_for([(gain, 65535.0), (bias, 2.0**44 - 1)], 44)
    return Depthwise(
        name=name,
        input_exponent=input_exponent,
        wide_exponent=exponent,
        stride=int(module.stride[0]),
        weight=integers.astype(np.int8),
        multiplier=np.rint(np.ldexp(gain, shift)).astype(np.uint16),
        bias=np.rint(np.ldexp(bias, shift)).astype(np.int64),
        shift=shift,
    )
