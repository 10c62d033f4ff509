"""A calibrated attention to the integer contract."""

import math
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quant.fake_quant import FakeQuantAttention
from quant.integers import accumulator_exponent, largest_scale, nibble_shifts, operand_encoder
from quant.models import layer_call
from sim.contract import attention as contract
from sim.contract.constants import BIAS_FRACTION_BITS, SCALE_FRACTION_BITS
from sim.contract.softmax import LOG_FRACTION_BITS, log_thresholds

LOGIT_UNITS: Final = math.log2(math.e) * (1 << LOG_FRACTION_BITS)
"""Steps of an integer logit per unit of a real one."""

TABLE_MAX: Final = 119
"""Largest weight of the relative positions: two signed nibbles hold no more."""


def _mantissa(real: Tensor, shifts: int) -> tuple[NDArray[np.float64], int]:
    """Whole scales (heads,) for real factors (heads,), and as many fraction bits as the passes leave room for."""
    room = largest_scale(shifts) / float(real.max().clamp_min(1e-30))
    fraction = max(0, min(SCALE_FRACTION_BITS, math.floor(math.log2(room))))
    return np.rint(real.numpy() * (1 << fraction)).clip(1, largest_scale(shifts)), fraction


def _static(bias: layer_call.StaticBias) -> contract.StaticBias:
    """Row 0 of a bias by pairs holds each distance once, in the order of the table."""
    first = bias.table[:, 0].detach().double()
    table = np.rint(first.numpy() * LOGIT_UNITS).clip(-(1 << 15), (1 << 15) - 1).astype(np.int16)
    return contract.StaticBias(table, math.isqrt(table.shape[1]))


def _relative(table: Tensor, q_scale: Tensor) -> tuple[NDArray[np.int8], NDArray[np.uint16]]:
    """Integers (heads, places, D) and scales (heads,) of a table (places, D) that is multiplied by levels of q.

    Steps are widened to the next that makes the scale a whole number, so that its rounding costs nothing.
    """
    real = table.detach().double() * q_scale * LOGIT_UNITS
    widest = real.abs().amax(dim=(1, 2)).clamp_min(1e-12)
    mantissa = np.ceil((widest / TABLE_MAX).numpy() * (1 << SCALE_FRACTION_BITS)).clip(1, (1 << 16) - 1)
    step = torch.from_numpy(mantissa / (1 << SCALE_FRACTION_BITS))[:, None, None]
    return (real / step).round().clamp(-128, TABLE_MAX).to(torch.int8).numpy(), mantissa.astype(np.uint16)


def _decomposed(bias: layer_call.DecomposedBias, q_scale: Tensor) -> contract.DecomposedBias:
    rows, row_scale = _relative(bias.rel_h, q_scale)
    columns, column_scale = _relative(bias.rel_w, q_scale)
    return contract.DecomposedBias(rows, columns, row_scale, column_scale, bias.side_h, bias.side_w)


def integer_attention(
    attention: FakeQuantAttention,
    call: layer_call.AttentionCall,
    exponents: tuple[int, int, int],
    largest: float,
) -> contract.Attention:
    """The integer form. call: any call of the attention, for its scale and bias. exponents: of wide q, k and v."""
    name = call.name
    heads, width = attention.q.scale.shape[0], attention.q.scale.shape[2]
    planes = [1 if grid.high - grid.low < 16 else 2 for grid in (attention.q, attention.k, attention.v)]
    q_scale, k_scale = attention.q.scale.double(), attention.k.scale.double()
    factor = (q_scale * k_scale)[:, 0].mean(dim=1) * call.scale * LOGIT_UNITS
    mantissa, fraction = _mantissa(factor, nibble_shifts(planes[0], planes[1]))
    # The step of q takes up the rounding of the scale, so that the products stay exact.
    q_scale = q_scale * torch.from_numpy(mantissa / (1 << fraction) / factor.numpy())[:, None, None]

    score_levels = attention.scores.levels.numpy()
    score_planes = -(-int(score_levels.max()).bit_length() // 4)
    v_scale, v_offset = attention.v.scale.double().flatten(), attention.v.offset.double().flatten()
    scale, bias = (attention.scores.scale * v_scale).numpy(), v_offset.numpy()
    exponent = accumulator_exponent(scale, bias, largest, nibble_shifts(score_planes, planes[2]))
    position: contract.StaticBias | contract.DecomposedBias | None = None
    if isinstance(call.bias, layer_call.StaticBias):
        position = _static(call.bias)
    elif isinstance(call.bias, layer_call.DecomposedBias):
        position = _decomposed(call.bias, q_scale)
    q, k, v = (
        operand_encoder(f"{name}.{part}", at, step.expand(heads, 1, width).flatten(), offset, (grid.low, grid.high))
        for part, grid, step, offset, at in (
            ("q", attention.q, q_scale, torch.zeros(heads * width, dtype=torch.float64), exponents[0]),
            ("k", attention.k, k_scale, attention.k.offset.double().flatten(), exponents[1]),
            ("v", attention.v, attention.v.scale.double(), v_offset, exponents[2]),
        )
    )
    limit = largest_scale(nibble_shifts(score_planes, planes[2]))
    return contract.Attention(
        name=name,
        heads=heads,
        q=q,
        k=k,
        v=v,
        logit_scale=mantissa.astype(np.uint16),
        thresholds=log_thresholds(attention.scores.thresholds.double().numpy()),
        score_levels=score_levels.astype(np.uint16),
        scale=np.rint(np.ldexp(scale, SCALE_FRACTION_BITS - exponent)).clip(1, limit).astype(np.uint16),
        bias=np.rint(np.ldexp(bias, BIAS_FRACTION_BITS - exponent)).astype(np.int32),
        wide_exponent=exponent,
        position=position,
        logit_shift=fraction,
    )
