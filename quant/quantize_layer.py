"""One dense layer: condition its weight, choose codes for its inputs, round its weight to compensate for both."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from quant import gptq
from quant.acnr import ConditionedWeight, reduce_condition_number
from quant.channel_groups import arrange_channels, spread
from quant.fake_quant import FakeQuantLinear
from quant.hluq import fit_hluq
from quant.input_grid import SAMPLE_TOKENS, InputGrid, fit_codebooks, fit_uniform
from quant.models.layer_call import LayerCall, weight_matrix
from quant.recipe import Recipe


@dataclass(frozen=True)
class QuantizedDense:
    """layer: as chosen. conditioned: what ACNR did to its weight, None where it is off. choice: what a search for input
    codes chose. inputs: float32 (tokens, C), the sample it was chosen on."""

    layer: FakeQuantLinear
    conditioned: ConditionedWeight | None
    choice: dict[str, Any]
    inputs: Tensor


def chosen_rows(total: int, limit: int) -> Tensor:
    """At most `limit` of `total` row numbers, ascending, the same ones for equal arguments.

    Random and not evenly spaced: tokens come in rows of a map, and a stride would see some of its columns only.
    """
    if total <= limit:
        return torch.arange(total)
    return torch.randperm(total, generator=torch.Generator().manual_seed(0))[:limit].sort().values


def sample_tokens(tensors: Sequence[Tensor], limit: int) -> Tensor:
    """At most `limit` rows (tokens, C) of tensors (..., C); the same rows for equal shapes, in order."""
    flat = [tensor.reshape(-1, tensor.shape[-1]) for tensor in tensors]
    ends = torch.tensor([part.shape[0] for part in flat]).cumsum(0)
    rows = chosen_rows(int(ends[-1]), limit)
    parts = []
    for part, end in zip(flat, ends.tolist(), strict=True):
        start = end - part.shape[0]
        parts.append(part[rows[(rows >= start) & (rows < end)] - start])
    return torch.cat(parts)


def _without_padding(inputs: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Rows that are not all zero: padding behind a LayerNorm is no statistic of the picture."""
    real = inputs.ne(0).any(dim=1)
    return (inputs, wanted) if bool(real.all()) or not bool(real.any()) else (inputs[real], wanted[real])


def equalising_factor(calls: Sequence[LayerCall]) -> Tensor:
    """By what to divide each channel (C,) of the inputs of a layer so that all have like spreads."""
    inputs = sample_tokens([call.x for call in calls], SAMPLE_TOKENS)
    width = spread(_without_padding(inputs, inputs)[0])
    return width / width.log().mean().exp()


def apply_factor(call: LayerCall, factor: Tensor) -> None:
    """Divide the LayerNorm in front of a layer by `factor` and multiply the layer's columns by it, in place.

    The function of the network is unchanged.
    """
    assert call.norm is not None and isinstance(call.module, nn.Linear)
    call.norm.weight.data = call.norm.weight.data / factor
    call.norm.bias.data = call.norm.bias.data / factor
    call.module.weight.data = call.module.weight.data * factor


def _fit_inputs(call: LayerCall, inputs: Tensor, weight: Tensor, recipe: Recipe) -> tuple[InputGrid, dict[str, Any]]:
    bits = recipe.input_bits(call.name)
    if recipe.hluq and call.activation is not None and bits < 8:
        grid, choice = fit_hluq(inputs, weight, bits)
        return grid, {"codes": "HLUQ", **vars(choice)}
    width = spread(inputs)
    importance = weight.square().sum(dim=0)
    arrangement = arrange_channels(-width, width, recipe.cag, importance)
    if recipe.cag == "tile" and bits == 4:
        return fit_codebooks(inputs, importance, arrangement), {"codes": "codebook per K tile"}
    grid = fit_uniform(inputs, importance, arrangement, bits, channel_offsets=recipe.cag == "tile")
    return grid, {"codes": "uniform"}


def quantize_dense(float_calls: list[LayerCall], calls: list[LayerCall], recipe: Recipe) -> QuantizedDense:
    """Quantize one layer. float_calls and calls: the same layer on the same pictures, in float and behind the
    operations quantized so far."""
    call = calls[0]
    weight = weight_matrix(call.module)
    stored_bias = getattr(call.module, "bias", None)
    bias = torch.zeros(weight.shape[0]) if stored_bias is None else stored_bias.detach()
    inputs, wanted_inputs = _without_padding(
        sample_tokens([one.x for one in calls], recipe.max_tokens),
        sample_tokens([one.x for one in float_calls], recipe.max_tokens),
    )
    grid, choice = _fit_inputs(call, inputs, weight, recipe)
    quantized = grid.quantize(inputs)
    wanted = wanted_inputs[:, grid.permutation]
    weight = weight[:, grid.permutation]
    # Conditioning changes the function of the layer; what is asked for stays that of the float weight.
    wanted_outputs = wanted @ weight.T
    conditioned = None
    if recipe.acnr:
        error = wanted - quantized
        moment = error.T @ error / error.shape[0]
        conditioned = reduce_condition_number(weight, moment, iterations=recipe.acnr_iterations)
        weight = conditioned.weight
    bits, group = recipe.weight_bits(call.name), recipe.weight_group(weight.shape[1])
    if recipe.compensate:
        layer = _compensated(grid, quantized, wanted_outputs, weight, bias, recipe=recipe, bits=bits, group=group)
    else:
        rounded = gptq.round_nearest(weight, quantized.square().mean(dim=0), bits, group)
        layer = FakeQuantLinear(grid, rounded, bias)
    layer = replace(layer, weight=layer.weight.per_tile())
    return QuantizedDense(layer, conditioned, choice, inputs)


def _compensated(
    grid: InputGrid,
    quantized: Tensor,
    wanted: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    recipe: Recipe,
    bits: int,
    group: int,
) -> FakeQuantLinear:
    """Round so that the layer, fed with its quantized inputs, gives `wanted` (tokens, N) as well as it can."""
    mean_input, mean_wanted = quantized.mean(dim=0), wanted.mean(dim=0)
    centred = quantized - mean_input
    covariance = centred.T @ centred / centred.shape[0]
    ridge = recipe.ridge * centred.shape[1] / centred.shape[0]
    damping = max(recipe.damping, ridge)
    missing = (wanted - mean_wanted - centred @ weight.T).T @ centred / centred.shape[0]
    target = gptq.compensated_target(weight, covariance, missing, ridge)
    rounded = gptq.round_columns(target, covariance, damping, bits, group)
    rounded = gptq.polish(target, rounded, covariance, damping, recipe.sweeps)
    return FakeQuantLinear(grid, rounded, bias + mean_wanted - rounded.dequantized() @ mean_input)
