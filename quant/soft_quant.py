"""Trainable twins of the quantized operations: the same numbers forward, straight-through gradients backward.

A twin starts as exactly the operation it was made of and ends, hardened, as another operation of the same kind:

- Scales of inputs and of attention operands are learned (LSQ, Esser et al., 2020): the level of a value is rounded
  forward and passed as it is backward, and the gradient of a scale is multiplied by 1 / sqrt(elements * largest code).
  A scale is trained as the logarithm of its ratio to where it started, so it stays positive and a rate is relative.
  Tiles that start with one scale share it to the end. Level sets never change.
- Integers of weights are learned as in AdaRound (Nagel et al., 2020), around integers that are good already. AdaRound
  chooses between the two neighbours of a real weight; rounding that compensates errors leaves weights elsewhere, so
  here each integer may move by at most one step either way: soft integer = integer + move, move in [-1, 1], 0 at first,
  within the limits of the weight. `Rounding.penalty` draws moves to -1, 0 or 1, with AdaRound's 1 - |2h - 1| ** beta
  for h the distance to the nearest of them.
- QDrop (Wei et al., 2022): while training, an element passes unquantized with probability 1 - keep. A drop is an
  argument of the call and no state, so nothing can stay unquantized afterwards.
"""

from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional

from quant.channel_groups import tile_of_position
from quant.fake_quant import SCORE_TABLE, FakeQuant, FakeQuantAttention, FakeQuantLinear, OperandGrid
from quant.gptq import RoundedWeight, expand_scale
from quant.input_grid import HALF_STEPS, LARGEST_OFFSET, LEVEL_LOW, InputGrid, store_offset
from quant.models.layer_call import AttentionCall
from sim.contract.layer import weight_limits


class _StraightThrough(Function):
    """`rounded` forward, the gradient to `value` backward."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, rounded: Tensor) -> Tensor:
        return rounded.view_as(rounded)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class _ScaledGradient(Function):
    """`value` forward, its gradient times `factor` backward."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, factor: Tensor) -> Tensor:
        ctx.save_for_backward(factor)
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.saved_tensors[0], None


def straight_through(value: Tensor, rounded: Tensor) -> Tensor:
    """Exactly `rounded`, with the gradient of `value`; both of one shape."""
    result: Tensor = _StraightThrough.apply(value, rounded)
    return result


def scale_gradient(value: Tensor, factor: Tensor) -> Tensor:
    """Exactly `value`, whose gradient is multiplied by `factor`, of a shape that broadcasts to that of `value`."""
    result: Tensor = _ScaledGradient.apply(value, factor)
    return result


@dataclass(frozen=True)
class QuantDrop:
    """Elements stay quantized with probability `keep`, drawn from `generator` on the device of the elements."""

    keep: float
    generator: torch.Generator

    def mix(self, quantized: Tensor, real: Tensor) -> Tensor:
        """Element by element `quantized` or, with probability 1 - keep, `real`."""
        draw = torch.rand(real.shape, generator=self.generator, device=real.device)
        return torch.where(draw < self.keep, quantized, real)


class SoftGrid:
    """An input grid with trainable scales and offsets.

    log_ratio: float32 (groups,), natural logarithm of each scale over its start; shift: float32 (C,), what an offset
    gains, in levels of the start. While a scale changes, the middle level of a channel keeps the real value that it
    stands for: levels spread about it, and a channel far from zero stays where it is.
    """

    def __init__(self, grid: InputGrid, device: torch.device) -> None:
        tile = tile_of_position(grid.offset.numel())
        start, self.group = grid.scale.unique(return_inverse=True)
        levels = torch.stack(grid.levels).cpu()
        self.grid = grid
        self.permutation = grid.permutation.to(device)
        self.start = start.to(device)
        self.group_of_position = self.group.cpu()[tile].to(device)
        self.offset = grid.offset.to(device)
        self.middle = levels[:, levels.shape[1] // 2].float()[tile].to(device)
        self.low, self.high = levels[:, 0].float()[tile].to(device), levels[:, -1].float()[tile].to(device)
        self.consecutive = bool((self.high - self.low == 2**grid.bits - 1).all())
        # Codes depend on level sets alone, which are fixed: one table for the whole training.
        table = levels.gather(1, grid.code_table().cpu())
        self.table = table.float().flatten().to(device)
        self.first_entry = (tile * HALF_STEPS - 2 * LEVEL_LOW).float().to(device)
        self.members = torch.bincount(self.group_of_position, minlength=start.numel()).float()
        self.log_ratio = torch.zeros_like(self.start)
        self.shift = torch.zeros_like(self.offset)

    def _stored_offset(self, log_ratio: Tensor) -> Tensor:
        """Offsets in levels of the present scale, as they are stored; at the start exactly those of the grid."""
        wanted = (
            self.offset + (self.offset + self.middle) * torch.expm1(-log_ratio) + self.shift * torch.exp(-log_ratio)
        )
        wanted = wanted.clamp(-LARGEST_OFFSET, LARGEST_OFFSET)
        return straight_through(wanted, store_offset(wanted.detach()))

    def _nearest(self, value: Tensor) -> Tensor:
        """The nearest level of values in levels; on a midpoint the lower one, as in `InputGrid`."""
        half_step = value.mul(2).ceil_()
        if self.consecutive:
            return half_step.div_(2).floor_().clamp_(self.low, self.high)
        half_step.clamp_(2 * LEVEL_LOW, 2 * LEVEL_LOW + HALF_STEPS - 1)
        return self.table[half_step.add_(self.first_entry).to(torch.int32)]

    def quantize(self, x: Tensor, drop: QuantDrop | None) -> Tensor:
        """float32 (tokens, C) in channel order to (tokens, C), permuted, quantized but for what `drop` drops."""
        factor = (x.shape[0] * self.members * (2**self.grid.bits - 1)).rsqrt()
        log_ratio = scale_gradient(self.log_ratio, factor)[self.group_of_position]
        scale = self.start[self.group_of_position] * torch.exp(log_ratio)
        offset = self._stored_offset(log_ratio)
        ordered = x[:, self.permutation]
        value = ordered / scale - offset
        level = straight_through(torch.clamp(value, self.low, self.high), self._nearest(value.detach()))
        quantized = (level + offset) * scale
        return quantized if drop is None else drop.mix(quantized, ordered)

    def parameters(self) -> tuple[list[Tensor], list[Tensor]]:
        """Logarithms of scales, and shifts of offsets."""
        return [self.log_ratio], [self.shift]

    @torch.no_grad()
    def harden(self) -> InputGrid:
        """The grid as trained, on the device of the one that it came from."""
        log_ratio = self.log_ratio[self.group_of_position]
        offset = self._stored_offset(log_ratio).to(self.grid.offset.device)
        scale = (self.start * torch.exp(self.log_ratio)).to(self.grid.scale.device)[self.group]
        return replace(self.grid, scale=scale, offset=offset)


class Rounding:
    """Trainable integers of a weight and its scales.

    move: float32 (N, C), within [-1, 1] after `confine`. log_ratio: float32 (groups, N), natural logarithm of each
    scale over its start.
    """

    def __init__(self, weight: RoundedWeight, device: torch.device) -> None:
        low, high = weight_limits(weight.bits)
        self.weight = weight
        self.integers = weight.integers.to(device)
        self.start = weight.scale.to(device)
        self.log_ratio = torch.zeros_like(self.start)
        self.lowest = low
        self.least, self.most = (low - self.integers).clamp_min_(-1), (high - self.integers).clamp_max_(1)
        self.move = torch.zeros_like(self.integers)

    @torch.no_grad()
    def confine(self) -> None:
        """Moves back to at most one step, and integers to their limits; to be called behind every training step."""
        self.move.copy_(torch.clamp(self.move, self.least, self.most))

    def soft(self) -> Tensor:
        """Real weights (N, C) of integers that are not whole yet."""
        factor = torch.tensor(self.weight.group * -self.lowest, dtype=torch.float32, device=self.move.device).rsqrt()
        scale = self.start * torch.exp(scale_gradient(self.log_ratio, factor))
        return (self.integers + self.move) * expand_scale(scale, self.integers.shape[1], self.weight.group)

    def penalty(self, beta: float) -> Tensor:
        """Sum over weights of 1 - |2h - 1| ** beta, h the distance of the move to the nearest whole step."""
        distance = (self.move - self.move.detach().round()).abs()
        return (1 - (1 - 2 * distance).pow(beta)).sum()

    @torch.no_grad()
    def gap(self) -> float:
        """Largest distance of a soft integer to the one that it hardens to, in integer steps."""
        return float((self.move - self.move.round()).abs().max())

    @torch.no_grad()
    def harden(self) -> RoundedWeight:
        """Whole integers, on the device of those that they came from."""
        integers = self.integers + self.move.round()
        home = self.weight.integers.device
        scale = self.start * torch.exp(self.log_ratio)
        return replace(self.weight, integers=integers.to(home), scale=scale.to(home))


class SoftLinear:
    """Twin of a quantized dense layer of C inputs and N outputs. The bias stays."""

    def __init__(self, layer: FakeQuantLinear, device: torch.device) -> None:
        self.layer = layer
        self.grid = SoftGrid(layer.grid, device)
        self.rounding = Rounding(layer.weight, device)
        self.bias = layer.bias.to(device)

    def __call__(self, x: Tensor, drop: QuantDrop | None = None) -> Tensor:
        """x float32 (..., C) in channel order to (..., N)."""
        quantized = self.grid.quantize(x.reshape(-1, x.shape[-1]), drop)
        output = functional.linear(quantized, self.rounding.soft(), self.bias)
        return output.view(*x.shape[:-1], -1)

    def roundings(self) -> list[Rounding]:
        """Of the one weight."""
        return [self.rounding]

    def parameters(self) -> tuple[list[Tensor], list[Tensor]]:
        """Logarithms of scales, and shifts of offsets."""
        scales, shifts = self.grid.parameters()
        return [*scales, self.rounding.log_ratio], shifts

    def harden(self) -> FakeQuantLinear:
        """The layer as trained, with whole integers."""
        return replace(self.layer, grid=self.grid.harden(), weight=self.rounding.harden())


class SoftOperand:
    """Levels of an attention operand with one trainable factor of its scales per head.

    The factor keeps the ratios of a head's channels, on which a product of two operands without scales per channel
    rests. log_ratio: float32 (heads, 1, 1). shift: float32 (heads, 1, D), what level 0 gains, in levels of the start;
    trained for operands that have an offset.
    """

    def __init__(self, grid: OperandGrid, device: torch.device) -> None:
        self.grid = grid
        self.start, self.offset = grid.scale.to(device), grid.offset.to(device)
        self.has_offset = bool((grid.offset != 0).any())
        self.log_ratio = torch.zeros(grid.scale.shape[0], 1, 1, device=device)
        self.shift = torch.zeros_like(self.offset)

    def _place(self, log_ratio: Tensor) -> tuple[Tensor, Tensor]:
        """Present scale and offset."""
        return self.start * torch.exp(log_ratio), self.offset + self.shift * self.start

    def quantize(self, x: Tensor, drop: QuantDrop | None) -> tuple[Tensor, Tensor]:
        """(..., heads, tokens, D) quantized but for what `drop` drops, and the offset."""
        elements = torch.tensor(float(x.numel() // x.shape[-3]), device=x.device)
        factor = (elements * (self.grid.high - self.grid.low)).rsqrt()
        scale, offset = self._place(scale_gradient(self.log_ratio, factor))
        value = (x - offset) / scale
        nearest = torch.ceil(value.detach() - 0.5).clamp_(self.grid.low, self.grid.high)
        level = straight_through(value.clamp(self.grid.low, self.grid.high), nearest)
        quantized = level * scale + offset
        return (quantized if drop is None else drop.mix(quantized, x)), offset

    def parameters(self) -> tuple[list[Tensor], list[Tensor]]:
        """Logarithms of scales, and shifts of offsets, none where offsets are zero."""
        return [self.log_ratio], [self.shift] if self.has_offset else []

    @torch.no_grad()
    def harden(self) -> OperandGrid:
        """The grid as trained, on the device of the one that it came from."""
        scale, offset = self._place(self.log_ratio)
        return replace(self.grid, scale=scale.to(self.grid.scale.device), offset=offset.to(self.grid.offset.device))


class SoftAttention:
    """Twin of a quantized attention. The grid of the probabilities is fixed; gradients pass it up to its last level."""

    def __init__(self, attention: FakeQuantAttention, device: torch.device) -> None:
        self.attention = attention
        self.q, self.k, self.v = (SoftOperand(operand, device) for operand in (attention.q, attention.k, attention.v))
        centres = (torch.arange(SCORE_TABLE, dtype=torch.float64) + 0.5) / SCORE_TABLE
        scores = attention.scores
        self.table = replace(scores, thresholds=scores.thresholds.cpu(), levels=scores.levels.cpu()).quantize(centres)
        self.table = self.table.float().to(device)
        self.highest = float(scores.levels[-1]) * scores.scale

    def _quantize_scores(self, probability: Tensor, drop: QuantDrop | None) -> Tensor:
        entry = (probability.detach() * SCORE_TABLE).to(torch.int32).clamp_(max=SCORE_TABLE - 1)
        quantized = straight_through(probability.clamp(max=self.highest), self.table[entry])
        return quantized if drop is None else drop.mix(quantized, probability)

    def __call__(self, call: AttentionCall, drop: QuantDrop | None = None) -> Tensor:
        """The result (..., heads, queries, D) of a call."""
        v, offset = self.v.quantize(call.v, drop)
        v = v - offset
        operands = replace(call, q=self.q.quantize(call.q, drop)[0], k=self.k.quantize(call.k, drop)[0])
        mixed = []
        for head in range(call.q.shape[-3]):
            probability = self._quantize_scores(operands.logits(head).softmax(dim=-1), drop)
            mixed.append(probability @ v[..., head, :, :])
        return torch.stack(mixed, dim=-3) + offset

    def roundings(self) -> list[Rounding]:
        """None: no weights."""
        return []

    def parameters(self) -> tuple[list[Tensor], list[Tensor]]:
        """Logarithms of scales, and shifts of offsets."""
        every = [operand.parameters() for operand in (self.q, self.k, self.v)]
        return [one for scales, _ in every for one in scales], [one for _, shifts in every for one in shifts]

    def harden(self) -> FakeQuantAttention:
        """The attention as trained."""
        return replace(self.attention, q=self.q.harden(), k=self.k.harden(), v=self.v.harden())


SoftQuant: TypeAlias = SoftLinear | SoftAttention


def soften(operation: FakeQuant, device: torch.device) -> SoftQuant:
    """The trainable twin of an operation, its tensors on `device`."""
    if isinstance(operation, FakeQuantLinear):
        return SoftLinear(operation, device)
    return SoftAttention(operation, device)
