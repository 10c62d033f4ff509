"""The plainest exporter: a float network to integer operations of 8-bit codes and weights, with min-max ranges.

All wide numbers share one exponent, and every step is chosen so that the integer scale it gives is exact, so that
what is left of the difference to the float network is the rounding of codes and weights. It stands for no method;
it makes models whose operations compute what a torch network computes, to a few per cent.
"""

import math
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quant.models.layer_call import (
    ActivationCall,
    AddCall,
    AttentionCall,
    Call,
    DecomposedBias,
    DepthwiseCall,
    LayerCall,
    NormCall,
    StaticBias,
    weight_matrix,
)
from sim.contract import attention
from sim.contract.activation_table import sample_function
from sim.contract.depthwise import Depthwise
from sim.contract.encoder import Encoder
from sim.contract.layer import QuantizedLayer
from sim.contract.layer_norm import LayerNorm
from sim.contract.positions import round_positions
from sim.contract.residual import Residual
from sim.contract.serialize import Operation
from sim.contract.softmax import log_thresholds

EXPONENT: Final = -8
"""Of every wide tensor: values within 128, in steps of 1/256."""

TOP: Final = 119
"""Largest level and weight."""

LOG_UNITS: Final = math.log2(math.e) * 512
"""Steps of a logit per unit of the float logit."""

Float = NDArray[np.float64]


def numbers(x: Tensor) -> Float:
    return x.detach().double().numpy()


def gelu(x: Float) -> Float:
    return torch.nn.functional.gelu(torch.from_numpy(x)).numpy()


def to_bytes(x: Float, step: Float | float) -> NDArray[np.int8]:
    return np.clip(np.rint(x / step), -TOP, TOP).astype(np.int8)


def encoder(name: str, channels: int, step: float, *, rotated: bool = False) -> Encoder:
    """Levels -128..119 in steps of `step`; with `rotated` every position reads the channel before its own."""
    ratio = 2 * 2.0**EXPONENT / step
    shift = min(21, 14 - math.ceil(math.log2(ratio)))
    return Encoder(
        name=name,
        input_exponent=EXPONENT,
        permutation=np.roll(np.arange(channels), 1 if rotated else 0).astype(np.uint16),
        multiplier=np.full(channels, round(ratio * 2**shift), np.int16),
        addend=np.full(channels, 256 << shift, np.int32),
        shift=np.full(-(-channels // 64), shift, np.uint8),
        levels=np.arange(-128, TOP + 1).astype(np.int8)[None],
    )


def dense(call: LayerCall) -> QuantizedLayer:
    weight = numbers(weight_matrix(call.module))
    bias = getattr(call.module, "bias", None)
    step = float(call.x.abs().max()) / TOP
    units = 2.0 ** (10 - EXPONENT) * step
    scale = np.maximum(1, np.ceil(np.abs(weight).max(axis=1) / TOP * units))
    quantizer = encoder(call.name, weight.shape[1], step, rotated=True)
    return QuantizedLayer(
        name=call.name,
        encoder=quantizer,
        weight=to_bytes(weight[:, quantizer.permutation], (scale / units)[:, None]),
        scale=np.tile((256 * scale).astype(np.uint16), (quantizer.tiles, 1)),
        bias=np.rint((0 if bias is None else numbers(bias)) * np.full(len(weight), 2.0 ** (8 - EXPONENT))).astype("i4"),
        wide_exponent=EXPONENT,
        weight_planes=2,
    )


def norm(call: NormCall) -> LayerNorm:
    module, channels = call.module, call.x.shape[-1]
    return LayerNorm(
        name=call.name,
        input_exponent=EXPONENT,
        wide_exponent=EXPONENT,
        epsilon=max(1, round(module.eps * channels**2 * 4.0**-EXPONENT)),
        gain=np.rint(numbers(module.weight) * 2**12).astype(np.int16),
        bias=np.rint(numbers(module.bias) * 2.0 ** (14 - EXPONENT)).astype(np.int32),
        shift=12 + 10 + EXPONENT,
    )


def depthwise(call: DepthwiseCall) -> Depthwise:
    module, shift = call.module, 20
    weight = numbers(module.weight)[:, 0]
    multiplier = np.ceil(np.abs(weight).max(axis=(1, 2)) / TOP * 2**shift)
    bias = 0 if module.bias is None else numbers(module.bias)
    return Depthwise(
        name=call.name,
        input_exponent=EXPONENT,
        wide_exponent=EXPONENT,
        stride=module.stride[0],
        weight=to_bytes(weight, (multiplier / 2**shift)[:, None, None]),
        multiplier=multiplier.astype(np.uint16),
        bias=np.rint(bias * np.full(len(weight), 2.0 ** (shift - EXPONENT))).astype(np.int64),
        shift=shift,
    )


def position_bias(call: AttentionCall, q_step: float) -> attention.StaticBias | attention.DecomposedBias | None:
    bias, heads = call.bias, call.q.shape[-3]
    if isinstance(bias, StaticBias):
        # From pixel 0, a key's offset is its own number.
        table = np.rint(numbers(bias.table)[:, 0] * LOG_UNITS).astype(np.int16)
        return attention.StaticBias(table, math.isqrt(table.shape[1]))
    if bias is None:
        return None
    tables, scales = [], []
    for real in (numbers(bias.rel_h), numbers(bias.rel_w)):
        units = q_step * LOG_UNITS * 2**10
        scale = np.ceil(np.abs(real).max() / TOP * units)
        tables.append(np.tile(to_bytes(real, scale / units), (heads, 1, 1)))
        scales.append(np.full(heads, scale, np.uint16))
    assert isinstance(bias, DecomposedBias)
    return attention.DecomposedBias(tables[0], tables[1], scales[0], scales[1], bias.side_h, bias.side_w)


def addition(call: AddCall) -> Residual:
    positions = None
    if call.name.endswith("pos_embed"):
        positions = round_positions(f"{call.name}.positions", call.b[0].numpy(), EXPONENT)
    return Residual(call.name, EXPONENT, EXPONENT, EXPONENT, positions)


def logit_fraction(scale: float) -> tuple[int, int]:
    """Mantissa and fraction bits of a real scale; with two nibbles on either side a mantissa has 8 bits."""
    shift = min(10, math.floor(math.log2(255 / scale)))
    return round(scale * 2**shift), shift


def attend(call: AttentionCall) -> attention.Attention:
    heads, width = call.q.shape[-3], call.q.shape[-1]
    q_step, k_step = (float(one.abs().max()) / TOP for one in (call.q, call.k))
    logit_scale, logit_shift = logit_fraction(q_step * k_step * call.scale * LOG_UNITS)
    largest = max(float(call.logits(head).softmax(dim=-1).max()) for head in range(heads))
    p_step = largest / 255
    units = p_step * 2.0 ** (10 - EXPONENT)
    scale = math.ceil(float(call.v.abs().max()) / TOP * units)
    return attention.Attention(
        name=call.name,
        heads=heads,
        q=encoder(f"{call.name}.q", heads * width, q_step),
        k=encoder(f"{call.name}.k", heads * width, k_step),
        v=encoder(f"{call.name}.v", heads * width, scale / units),
        logit_scale=np.full(heads, logit_scale, np.uint16),
        logit_shift=logit_shift,
        thresholds=log_thresholds((np.arange(1, 256, dtype=np.float64) - 0.5) * p_step),
        score_levels=np.arange(256).astype(np.uint16),
        scale=np.full(heads * width, scale, np.uint16),
        bias=np.zeros(heads * width, np.int32),
        wide_exponent=EXPONENT,
        position=position_bias(call, q_step),
    )


class ByteExport:
    """Handler of calls: computes each in float and keeps the integer operation that stands for it."""

    def __init__(self) -> None:
        self.operations: dict[str, Operation] = {}

    def __call__(self, call: Call) -> Tensor:
        assert call.name not in self.operations, f"{call.name} ran twice"
        self.operations[call.name] = self.operation(call)
        return call.compute()

    @staticmethod
    def operation(call: Call) -> Operation:
        match call:
            case LayerCall():
                return dense(call)
            case NormCall():
                return norm(call)
            case ActivationCall():
                return sample_function(call.name, gelu, EXPONENT, EXPONENT)
            case AddCall():
                return addition(call)
            case DepthwiseCall():
                return depthwise(call)
            case AttentionCall():
                return attend(call)
        raise TypeError(f"{call.name} is a {type(call).__name__}")
