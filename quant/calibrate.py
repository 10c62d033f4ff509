"""Layer by layer calibration in network order.

Every calibration picture runs twice, in step: once in float and once behind the layers quantized so far. In
front of each layer all pictures stop; the layer is quantized so that, fed with its own quantized inputs, it
gives what the float path asks for; then both paths go on. An error made early is thus seen by every later
layer and, as far as a linear layer can, repaired.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from quant import gptq
from quant.activation import SAMPLE_TOKENS, fit_activation_grid
from quant.channel_groups import spread
from quant.fake_quant import FakeQuantLinear
from quant.models.layer_call import LayerCall, Result, Steps, call_layer, weight_matrix


@dataclass(frozen=True)
class Recipe:
    """How layers are quantized.

    compensate: error-compensating rounding; False rounds to nearest. uniform_codebooks: only the uniform
    activation codebook. equalise: scale the channels of a LayerNorm's output to like spread, the inverse going
    into the weight. ridge: strength, relative to the mean input variance, that holds the target to the original
    weight; None leaves it there. repair_residual: also ask the layers that write to the residual stream for
    the error that it carries. damping: relative diagonal of the covariance in rounding. sweeps: rounds of
    polishing. max_tokens: calibration tokens per layer.
    """

    compensate: bool = True
    uniform_codebooks: bool = False
    equalise: bool = True
    ridge: float | None = 0.03
    repair_residual: bool = True
    damping: float = 0.01
    sweeps: int = 3
    max_tokens: int = 32768


NEAREST = Recipe(compensate=False, uniform_codebooks=True, equalise=False, ridge=None, repair_residual=False)
"""Round to nearest: the baseline."""


def _sample(tensors: Sequence[Tensor], limit: int) -> Tensor:
    """Evenly spaced rows (tokens, C) of tensors (..., C), about `limit` in all; the same rows for equal shapes."""
    total = sum(tensor[..., 0].numel() for tensor in tensors)
    stride = max(1, -(-total // limit))
    return torch.cat([tensor.reshape(-1, tensor.shape[-1])[stride // 2 :: stride] for tensor in tensors])


def _equalise(calls: list[LayerCall], other_calls: list[LayerCall]) -> tuple[list[LayerCall], list[LayerCall]]:
    """Divide the channels of a LayerNorm's output by their relative spread, and multiply the weight's columns by it.

    The function of the network is unchanged. Returns the calls with scaled inputs.
    """
    norm, module = calls[0].norm, calls[0].module
    assert norm is not None and isinstance(module, nn.Linear)
    width = spread(_sample([call.x for call in calls], SAMPLE_TOKENS))
    factor = width / width.log().mean().exp()
    norm.weight.data /= factor
    norm.bias.data /= factor
    module.weight.data *= factor
    return ([replace(call, x=call.x / factor) for call in calls], [replace(call, x=call.x / factor) for call in other_calls])


def quantize_layer(float_calls: list[LayerCall], calls: list[LayerCall], recipe: Recipe) -> FakeQuantLinear:
    """Quantize one layer. float_calls and calls: the same layer on the same pictures, in float and behind the
    layers quantized so far."""
    module = calls[0].module
    weight = weight_matrix(module)
    bias = getattr(module, "bias", None)
    bias = torch.zeros(weight.shape[0]) if bias is None else bias.detach()
    inputs = _sample([call.x for call in calls], recipe.max_tokens)
    grid = fit_activation_grid(inputs, weight.square().sum(dim=0), recipe.uniform_codebooks)
    weight = weight[:, grid.permutation]
    quantized = grid.quantize(inputs)
    if not recipe.compensate:
        return FakeQuantLinear(grid, gptq.round_nearest(weight, quantized.square().mean(dim=0)), bias)
    wanted = _sample([call.x for call in float_calls], recipe.max_tokens)[:, grid.permutation] @ weight.T
    if recipe.repair_residual and calls[0].residual is not None:
        pairs = zip(float_calls, calls, strict=True)
        gaps = [ours.residual - theirs.residual for ours, theirs in pairs if ours.residual is not None and theirs.residual is not None]
        wanted += _sample(gaps, recipe.max_tokens)
    mean_input, mean_wanted = quantized.mean(dim=0), wanted.mean(dim=0)
    quantized -= mean_input
    covariance = quantized.T @ quantized / quantized.shape[0]
    target = weight
    if recipe.ridge is not None:
        missing = (wanted - mean_wanted - quantized @ weight.T).T @ quantized / quantized.shape[0]
        target = gptq.compensated_target(weight, covariance, missing, recipe.ridge)
    rounded = gptq.round_columns(target, covariance, recipe.damping)
    rounded = gptq.polish(target, rounded, covariance, recipe.damping, recipe.sweeps)
    return FakeQuantLinear(grid, rounded, bias + mean_wanted - rounded.dequantized() @ mean_input)


def quantize_in_step(
    float_steps: list[Steps[Result]],
    steps: list[Steps[Result]],
    recipe: Recipe,
    done: Callable[[str, FakeQuantLinear], None],
) -> tuple[list[Result], list[Result]]:
    """Quantize every layer that the given passes meet; `done` receives each.

    float_steps and steps: fresh passes over the same pictures, in the same order. Returns the float results and
    the results behind quantized layers.
    """
    finished: tuple[list[Result], list[Result]] = ([], [])
    float_calls, calls = [next(one) for one in float_steps], [next(one) for one in steps]
    while calls:
        if recipe.equalise and calls[0].norm is not None:
            calls, float_calls = _equalise(calls, float_calls)
        layer = quantize_layer(float_calls, calls, recipe)
        done(calls[0].name, layer)
        float_calls = _advance(float_steps, float_calls, call_layer, finished[0])
        calls = _advance(steps, calls, lambda call, layer=layer: layer(call.x), finished[1])
    return finished


def _advance(
    steps: list[Steps[Result]], calls: list[LayerCall], layer: Callable[[LayerCall], Tensor], finished: list[Result]
) -> list[LayerCall]:
    """Send every pass the output of its layer; returns the next calls, or nothing once the passes have ended."""
    following = []
    for one, call in zip(steps, calls, strict=True):
        try:
            following.append(one.send(layer(call)))
        except StopIteration as stop:
            finished.append(stop.value)
    return following
