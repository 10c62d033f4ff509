"""Networks written as generators that hand every quantizable layer to whoever runs them.

A network that is quantized layer by layer, in order, has to stop in front of every layer: for all
calibration pictures at once, once in float and once behind the layers that are quantized already. The
forward pass of our models is therefore a generator. It yields a `LayerCall` where a plain network would
call the layer, and is sent the layer's output. `run` makes an ordinary forward pass of it.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class LayerCall:
    """A quantizable layer about to run.

    name: path of the module in the state dict. module: nn.Linear, nn.Conv2d (1x1, or 3x3 fed by `im2col`)
    or a module that takes `x` as it is. x: float32 (..., K) input. residual: float32 (..., N) that the
    network adds to the output, or None. norm: the LayerNorm that alone produces `x` for this layer alone, or None.
    """

    name: str
    module: nn.Module
    x: Tensor
    residual: Tensor | None = None
    norm: nn.LayerNorm | None = None


Result = TypeVar("Result")
Steps = Generator[LayerCall, Tensor, Result]


def weight_matrix(module: nn.Module) -> Tensor:
    """Weight of a linear or convolution layer as a matrix (N, K), K in the order (ky, kx, input channel)."""
    if isinstance(module, nn.Linear):
        return module.weight.detach()
    if isinstance(module, nn.Conv2d) and module.groups == 1:
        return module.weight.detach().permute(0, 2, 3, 1).reshape(module.out_channels, -1)
    raise TypeError(f"{type(module).__name__} is not a layer with a weight matrix")


def call_layer(call: LayerCall) -> Tensor:
    """Output (..., N) of the layer of a call."""
    if isinstance(call.module, nn.Conv2d):
        return nn.functional.linear(call.x, weight_matrix(call.module), call.module.bias)
    output: Tensor = call.module(call.x)
    return output


def run(steps: Steps[Result], layer: Callable[[LayerCall], Tensor] = call_layer) -> Result:
    """Drive a network to its end, computing every quantizable layer with `layer`."""
    try:
        call = next(steps)
        while True:
            call = steps.send(layer(call))
    except StopIteration as stop:
        result: Result = stop.value
        return result


def im2col(x: Tensor) -> Tensor:
    """Neighbourhoods of a 3x3 convolution: (B, H, W, C) to (B, H, W, 9*C), order (ky, kx, c), zeros outside."""
    height, width = x.shape[1:3]
    padded = nn.functional.pad(x, (0, 0, 1, 1, 1, 1))
    return torch.cat([padded[:, ky : ky + height, kx : kx + width] for ky in range(3) for kx in range(3)], dim=-1)
