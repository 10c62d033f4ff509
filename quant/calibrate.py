"""Layer by layer calibration in network order.

Every calibration picture runs twice, in step: once in float and once behind the layers quantized so far. In
front of each layer all pictures stop; the layer is quantized so that, fed with its own quantized inputs, it
gives what the float path asks for; then both paths go on. An error made early is thus seen by every later
layer and, as far as a linear layer can, repaired.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Final

import torch
from torch import Tensor, nn

from quant import gptq
from quant.activation import SAMPLE_TOKENS, fit_activation_grid
from quant.byte_grid import fit_byte_grid
from quant.channel_groups import spread
from quant.fake_quant import FakeQuantLinear
from quant.models.layer_call import LayerCall, Result, Steps, call_layer, weight_matrix

BYTE_INPUTS: Final = (
    "image_encoder.layers.0.*",
    "image_encoder.layers.*.downsample.*",
    "image_encoder.*.attn.proj",
    "image_encoder.*.mlp.fc2",
    "image_encoder.neck.*",
    "mask_decoder.*",
)
"""Layers that 16 input levels hurt most: all but those behind a LayerNorm in the encoder (docs/quantization.md)."""


@dataclass(frozen=True)
class Recipe:
    """How layers are quantized.

    compensate: error-compensating rounding; False rounds to nearest. uniform_codebooks: only the uniform
    activation codebook. equalise: scale the channels of a LayerNorm's output to like spread, the inverse going
    into the weight. ridge: how strongly the target is held to the original weight, in units of mean input
    variance times inputs per token, as overfitting grows with their ratio; None leaves it there.
    repair_residual: also ask the layers that write to the residual stream for the error that it carries.
    damping: relative diagonal of the covariance in rounding. sweeps: rounds of polishing. max_tokens:
    calibration tokens per layer. byte_inputs: layers whose names match one of these patterns take 8-bit inputs,
    two planes of 4-bit codes.
    """

    compensate: bool = True
    uniform_codebooks: bool = False
    equalise: bool = True
    ridge: float | None = 1.0
    repair_residual: bool = False
    damping: float = 0.01
    sweeps: int = 3
    max_tokens: int = 16384
    byte_inputs: tuple[str, ...] = BYTE_INPUTS

    def takes_bytes(self, name: str) -> bool:
        """Whether the inputs of layer `name` have 8 bits."""
        return any(fnmatchcase(name, pattern) for pattern in self.byte_inputs)


NEAREST = Recipe(compensate=False, uniform_codebooks=True, equalise=False, ridge=None, byte_inputs=())
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
    # The folder stores norms as float16: what their rounding changes goes into the factor, so nothing is lost.
    rounded = (norm.weight / factor).half().float()
    factor = norm.weight / rounded
    norm.weight.data = rounded
    norm.bias.data = (norm.bias / factor).half().float()
    module.weight.data *= factor
    return (
        [replace(call, x=call.x / factor) for call in calls],
        [replace(call, x=call.x / factor) for call in other_calls],
    )


def quantize_layer(float_calls: list[LayerCall], calls: list[LayerCall], recipe: Recipe) -> FakeQuantLinear:
    """Quantize one layer. float_calls and calls: the same layer on the same pictures, in float and behind the
    layers quantized so far."""
    module = calls[0].module
    weight = weight_matrix(module)
    bias = getattr(module, "bias", None)
    bias = torch.zeros(weight.shape[0]) if bias is None else bias.detach()
    inputs = _sample([call.x for call in calls], recipe.max_tokens)
    grid = (
        fit_byte_grid(inputs)
        if recipe.takes_bytes(calls[0].name)
        else fit_activation_grid(inputs, weight.square().sum(dim=0), recipe.uniform_codebooks)
    )
    weight = weight[:, grid.permutation]
    quantized = grid.quantize(inputs)
    if not recipe.compensate:
        return FakeQuantLinear(grid, gptq.round_nearest(weight, quantized.square().mean(dim=0)), bias)
    wanted = _sample([call.x for call in float_calls], recipe.max_tokens)[:, grid.permutation] @ weight.T
    if recipe.repair_residual and calls[0].residual is not None:
        pairs = zip(float_calls, calls, strict=True)
        gaps = [
            ours.residual - theirs.residual
            for ours, theirs in pairs
            if ours.residual is not None and theirs.residual is not None
        ]
        wanted += _sample(gaps, recipe.max_tokens)
    mean_input, mean_wanted = quantized.mean(dim=0), wanted.mean(dim=0)
    quantized -= mean_input
    covariance = quantized.T @ quantized / quantized.shape[0]
    target, damping = weight, recipe.damping
    if recipe.ridge is not None:
        ridge = recipe.ridge * quantized.shape[1] / quantized.shape[0]
        damping = max(damping, ridge)
        missing = (wanted - mean_wanted - quantized @ weight.T).T @ quantized / quantized.shape[0]
        target = gptq.compensated_target(weight, covariance, missing, ridge)
    rounded = gptq.round_columns(target, covariance, damping)
    rounded = gptq.polish(target, rounded, covariance, damping, recipe.sweeps)
    return FakeQuantLinear(grid, rounded, bias + mean_wanted - rounded.dequantized() @ mean_input)


def quantize_in_step(
    float_steps: list[Steps[Result]],
    steps: list[Steps[Result]],
    recipe: Recipe,
    done: Callable[[str, FakeQuantLinear, float], None],
) -> tuple[list[Result], list[Result]]:
    """Quantize every layer that the given passes meet; `done` receives each, and its largest output.

    float_steps and steps: fresh passes over the same pictures, in the same order. Returns the float results and
    the results behind quantized layers.
    """
    finished: tuple[list[Result], list[Result]] = ([], [])
    float_calls, calls = [next(one) for one in float_steps], [next(one) for one in steps]
    while calls:
        if recipe.equalise and calls[0].norm is not None:
            calls, float_calls = _equalise(calls, float_calls)
        layer = quantize_layer(float_calls, calls, recipe)
        outputs = [layer(call.x) for call in calls]
        done(calls[0].name, layer, max(float(output.abs().max()) for output in outputs))
        float_calls = _advance(float_steps, map(call_layer, float_calls), finished[0])
        calls = _advance(steps, outputs, finished[1])
    return finished


def _advance(steps: list[Steps[Result]], outputs: Iterable[Tensor], finished: list[Result]) -> list[LayerCall]:
    """Send every pass the output of its layer; returns the next calls, or nothing once the passes have ended."""
    following = []
    for one, output in zip(steps, outputs, strict=True):
        try:
            following.append(one.send(output))
        except StopIteration as stop:
            finished.append(stop.value)
    return following
