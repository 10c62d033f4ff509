"""Networks written as generators that hand every quantizable operation to whoever runs them.

A network that is quantized operation by operation, in order, has to stop in front of every one: for all
calibration pictures at once, once in float and once behind the operations that are quantized already. The
forward pass of our models is therefore a generator. It yields a `Call` where a plain network would compute
something, and is sent the result. `run` makes an ordinary forward pass of it. What a network computes between
two yields (window partition, padding, splitting heads, im2col) moves values and changes none.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Call(ABC):
    """An operation about to run. name: its path in the style of the state dict, unique within a network."""

    name: str

    @abstractmethod
    def compute(self) -> Tensor:
        """The float result, float32."""


@dataclass(frozen=True)
class LayerCall(Call):
    """A dense layer as a matrix product: (..., K) times (K, N).

    module: nn.Linear, or nn.Conv2d whose neighbourhoods are already laid out in `x` (1x1; 3x3 by `im2col`;
    patches by `patches`). x: float32 (..., K) input. residual: float32 (..., N) that the network adds to the
    output, or None. norm: the LayerNorm that alone produces `x` for this layer alone, or None.
    activation: the function whose output `x` is, or None.
    """

    module: nn.Module
    x: Tensor
    residual: Tensor | None = None
    norm: nn.LayerNorm | None = None
    activation: Literal["gelu", "relu"] | None = None

    def compute(self) -> Tensor:
        """(..., N)."""
        if isinstance(self.module, nn.Conv2d):
            return functional.linear(self.x, weight_matrix(self.module), self.module.bias)
        output: Tensor = self.module(self.x)
        return output


@dataclass(frozen=True)
class NormCall(Call):
    """LayerNorm over the last axis of `x` float32 (..., C). module: anything with `weight`, `bias` (C,) and `eps`."""

    module: Any
    x: Tensor

    def compute(self) -> Tensor:
        """(..., C)."""
        module = self.module
        return functional.layer_norm(self.x, self.x.shape[-1:], module.weight, module.bias, module.eps)


@dataclass(frozen=True)
class ActivationCall(Call):
    """GELU (the exact one, with the error function) of `x` float32 (..., C)."""

    x: Tensor

    def compute(self) -> Tensor:
        """(..., C)."""
        return functional.gelu(self.x)


@dataclass(frozen=True)
class AddCall(Call):
    """The sum of two streams, float32 and of equal shape. a: the residual stream. b: what is added to it."""

    a: Tensor
    b: Tensor

    def compute(self) -> Tensor:
        """a + b."""
        return self.a + self.b


@dataclass(frozen=True)
class DepthwiseCall(Call):
    """A 3x3 convolution of each channel by itself, zeros outside, with the stride of the module. x: (B, H, W, C)."""

    module: nn.Conv2d
    x: Tensor

    def compute(self) -> Tensor:
        """(B, H / stride, W / stride, C), sides rounded up."""
        output: Tensor = self.module(self.x.permute(0, 3, 1, 2))
        return output.permute(0, 2, 3, 1)


@dataclass(frozen=True)
class StaticBias:
    """A bias of the attention logits that no operand influences. table: float32 (heads, queries, keys)."""

    table: Tensor

    def of_head(self, head: int, q: Tensor) -> Tensor:
        """Bias (queries, keys) of one head; q is not looked at."""
        return self.table[head]


@dataclass(frozen=True)
class DecomposedBias:
    """Relative positions by row and by column, each the product of the query and a table.

    rel_h: float32 (2 * side_h - 1, d), rel_w: float32 (2 * side_w - 1, d), shared by all heads. Queries and keys
    are the positions of a map of side_h x side_w in raster order, qh and qw the row and column of a query:
    bias[q, k] = q . rel_h[qh - kh + side_h - 1] + q . rel_w[qw - kw + side_w - 1], with q not scaled.
    Source: "MViTv2" (Li et al., 2022), section 4.1, in the form of the package segment-anything.
    """

    rel_h: Tensor
    rel_w: Tensor
    side_h: int
    side_w: int

    def of_head(self, head: int, q: Tensor) -> Tensor:
        """Bias (..., queries, keys) of one head with queries q (..., queries, d)."""
        grid = q.unflatten(-2, (self.side_h, self.side_w))
        rows = torch.einsum("...hwc,hkc->...hwk", grid, self.rel_h[_distances(self.side_h)])
        columns = torch.einsum("...hwc,wkc->...hwk", grid, self.rel_w[_distances(self.side_w)])
        return (rows[..., :, None] + columns[..., None, :]).flatten(-2).flatten(-3, -2)


def _distances(side: int) -> Tensor:
    """Row of a table of relative positions for each query and key of an axis: int64 (side, side)."""
    places = torch.arange(side)
    return places[:, None] - places[None, :] + side - 1


@dataclass(frozen=True)
class AttentionCall(Call):
    """softmax(scale * q k^T + bias) v, head by head.

    q: float32 (..., heads, queries, d). k, v: float32 (..., heads, keys, d). scale: 1 / sqrt(d).
    """

    q: Tensor
    k: Tensor
    v: Tensor
    scale: float
    bias: StaticBias | DecomposedBias | None = None

    def logits(self, head: int) -> Tensor:
        """What softmax is taken of, (..., queries, keys), for one head."""
        q = self.q[..., head, :, :]
        logits = q @ self.k[..., head, :, :].transpose(-2, -1) * self.scale
        return logits if self.bias is None else logits + self.bias.of_head(head, q)

    def compute(self) -> Tensor:
        """(..., heads, queries, d). One head at a time: 4096 queries by 4096 keys take 64 MiB in float32."""
        heads = range(self.q.shape[-3])
        return torch.stack([self.logits(head).softmax(dim=-1) @ self.v[..., head, :, :] for head in heads], dim=-3)


Result = TypeVar("Result")
Steps = Generator[Call, Tensor, Result]


@dataclass(frozen=True)
class BlockCall(Call):
    """A part of the network that reconstruction optimises as one: a block, from one tensor to one tensor.

    steps: makes a fresh pass over the block's own operations for an input like `x`. window: side of the squares of the
    map, in pixels, on which the block can be trained by themselves; 0 where it needs the whole map.
    """

    steps: Callable[[Tensor], "Steps[Tensor]"]
    x: Tensor
    window: int

    def compute(self) -> Tensor:
        """The block's output."""
        return run(self.steps(self.x))


def call_layer(call: Call) -> Tensor:
    """The float result of a call."""
    return call.compute()


def run(steps: Steps[Result], handler: Callable[[Call], Tensor] = call_layer) -> Result:
    """Drive a network to its end, computing every operation with `handler`, those inside blocks included."""
    try:
        call = next(steps)
        while True:
            output = run(call.steps(call.x), handler) if isinstance(call, BlockCall) else handler(call)
            call = steps.send(output)
    except StopIteration as stop:
        result: Result = stop.value
        return result


def weight_matrix(module: nn.Module) -> Tensor:
    """Weight of a linear or convolution layer as a matrix (N, K), K in the order (ky, kx, input channel)."""
    if isinstance(module, nn.Linear):
        return module.weight.detach()
    if isinstance(module, nn.Conv2d) and module.groups == 1:
        return module.weight.detach().permute(0, 2, 3, 1).reshape(module.out_channels, -1)
    raise TypeError(f"{type(module).__name__} is not a layer with a weight matrix")


def im2col(x: Tensor) -> Tensor:
    """Neighbourhoods of a 3x3 convolution: (B, H, W, C) to (B, H, W, 9*C), order (ky, kx, c), zeros outside."""
    height, width = x.shape[1:3]
    padded = functional.pad(x, (0, 0, 1, 1, 1, 1))
    return torch.cat([padded[:, ky : ky + height, kx : kx + width] for ky in range(3) for kx in range(3)], dim=-1)


def patches(x: Tensor, side: int) -> Tensor:
    """Squares that do not overlap: (B, H, W, C) to (B, H/side, W/side, side*side*C), order (ky, kx, c)."""
    grid = x.unflatten(2, (-1, side)).unflatten(1, (-1, side))  # (B, rows, ky, columns, kx, C)
    return grid.transpose(2, 3).flatten(3)
