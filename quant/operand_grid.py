"""Grids of the attention operands q, k and v: uniform levels per head and channel.

The integer form leaves three things free. What is constant over keys drops out of the softmax, so k has a zero point
per channel. Only the product of the steps of q and k has to be one number per head, so a channel's range moves from one
to the other (as SmoothQuant does between activations and weights; Xiao et al., 2022, equation 4). Rows of probabilities
sum to one, so a zero point of v per channel is a bias of the result.
"""

from typing import Final

import torch
from torch import Tensor

from quant.fake_quant import OperandGrid
from quant.quantize_layer import chosen_rows
from sim.contract.attention import STATIONARY_MAX

CLIP_CANDIDATES: Final = tuple(0.45 + 0.05 * step for step in range(13))
"""Ranges that are tried, over the widest of the sample."""

SAMPLE_TOKENS: Final = 16384


def operand_limits(bits: int, stationary: bool) -> tuple[int, int]:
    """Smallest and largest level of an operand: two's complement, a stationary byte ends at 119."""
    high = (1 << (bits - 1)) - 1
    return -(1 << (bits - 1)), min(high, STATIONARY_MAX) if stationary else high


def _tokens(operand: list[Tensor]) -> Tensor:
    """A sample (heads, tokens, D) of tensors (..., heads, tokens, D)."""
    flat = torch.cat([part.movedim(-3, 0).flatten(1, -2) for part in operand], dim=1)
    return flat[:, chosen_rows(flat.shape[1], SAMPLE_TOKENS)]


def _centre(x: Tensor) -> tuple[Tensor, Tensor]:
    """Middle and half range (heads, 1, D) of every channel of (heads, tokens, D)."""
    low, high = x.amin(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)
    return (low + high) / 2, ((high - low) / 2).clamp_min(1e-6)


def _squared_error(x: Tensor, scale: Tensor, low: int, high: int, middle: float) -> Tensor:
    level = torch.ceil(x / scale + middle - 0.5).clamp_(low, high)
    return ((level - middle) * scale - x).square().mean(dim=1, keepdim=True)


def _search(
    x: Tensor,
    widest: Tensor,
    weight: Tensor | float,
    limits: tuple[int, int],
    over: tuple[int, ...],
    *,
    middle: float = 0.0,
) -> Tensor:
    """The step with the least weighted squared error, summed over axes `over`; candidates in units of `widest`."""
    low, high = limits
    widest = widest.clamp_min(1e-6)
    best, best_error = torch.zeros_like(widest), torch.full_like(widest, torch.inf)
    for clip in CLIP_CANDIDATES:
        scale = widest * clip / ((high - low) / 2)
        error = _squared_error(x, scale, low, high, middle) * weight
        error = error.sum(dim=over, keepdim=True) if over else error
        best, best_error = torch.where(error < best_error, scale, best), torch.minimum(error, best_error)
    return best


def fit_query_key(queries: list[Tensor], keys: list[Tensor], bits: int, channel_steps: bool) -> tuple[OperandGrid, ...]:
    """Grids of q and k from tensors (..., heads, tokens, D) of several pictures.

    channel_steps: move ranges between q and k channel by channel and give k zero points per channel; otherwise one step
    per tensor, and zero points of k per tensor.
    """
    q, k = _tokens(queries), _tokens(keys)
    q_limits, k_limits = operand_limits(bits, stationary=False), operand_limits(bits, stationary=True)
    if channel_steps:
        centre, k_range = _centre(k)
        q_range = q.abs().amax(dim=1, keepdim=True).clamp_min(1e-6)
        balance = (k_range / q_range).sqrt()
    else:
        centre = ((k.amin() + k.amax()) / 2).expand(k.shape[0], 1, k.shape[2])
        balance = torch.ones_like(centre)
    q, k = q * balance, (k - centre) / balance
    axes = (2,) if channel_steps else (0, 2)
    q_scale = _search(
        q, q.abs().amax(dim=(1, *axes), keepdim=True), k.square().mean(dim=1, keepdim=True), q_limits, axes
    )
    k_scale = _search(
        k,
        k.abs().amax(dim=(1, *axes), keepdim=True),
        q.square().mean(dim=1, keepdim=True),
        k_limits,
        axes,
        middle=(k_limits[0] + k_limits[1]) / 2,
    )
    shift = k_scale * balance * ((k_limits[0] + k_limits[1]) / 2)
    return (
        OperandGrid(q_scale / balance, torch.zeros_like(centre), *q_limits),
        OperandGrid(k_scale * balance, centre - shift, *k_limits),
    )


def fit_value(values: list[Tensor], bits: int, channel_steps: bool) -> OperandGrid:
    """Grid of v from tensors (..., heads, tokens, D); channel_steps as in `fit_query_key`."""
    v = _tokens(values)
    limits = operand_limits(bits, stationary=True)
    middle = (limits[0] + limits[1]) / 2
    if channel_steps:
        centre, half = _centre(v)
        scale = _search(v - centre, half, 1.0, limits, (), middle=middle)
    else:
        centre = ((v.amin() + v.amax()) / 2).expand(v.shape[0], 1, v.shape[2])
        centred = v - centre
        widest = centred.abs().amax().reshape(1, 1, 1)
        scale = _search(centred, widest, 1.0, limits, (0, 2), middle=middle).expand_as(centre)
    shift = scale * middle
    return OperandGrid(scale.contiguous(), (centre - shift).contiguous(), *limits)
