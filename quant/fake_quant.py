"""Quantized operations in torch: float arithmetic on dequantized operands, to calibrate and to compare.

Their outputs differ from the integer operations' by what only the latter do: 16-bit scale mantissas, biases on a grid
of 1/256 of a wide step, wide results rounded to 16 bits, and softmax, LayerNorm and GELU in integers. No figure of the
integer model comes from here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from quant.channel_groups import tile_of_position
from quant.gptq import RoundedWeight
from quant.input_grid import InputGrid
from quant.models.layer_call import AttentionCall, Call, LayerCall
from quant.score_grid import LONG_ROW_KEYS, ScoreGrid

SCORE_TABLE = 1 << 14
"""Entries of the table that quantizes probabilities of short rows: finer than their thresholds need."""


@dataclass(frozen=True)
class FakeQuantLinear:
    """A quantized dense layer of C inputs and N outputs.

    grid: codes of the inputs. weight: integers and scales, columns in permuted order. bias: float32 (N,), the
    real bias, no offset folded in.
    """

    grid: InputGrid
    weight: RoundedWeight
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """x float32 (..., C) in channel order to (..., N)."""
        quantized = self.grid.quantize(x.reshape(-1, x.shape[-1]))
        output = functional.linear(quantized, self.weight.dequantized(), self.bias)
        return output.view(*x.shape[:-1], -1)

    def folded_bias(self) -> Tensor:
        """The bias with all channel offsets folded in, float64 (N,): what an accumulator starts from."""
        tile = tile_of_position(self.grid.offset.numel())
        constant_input = self.grid.offset.double() * self.grid.scale.double()[tile]
        return self.bias.double() + self.weight.dequantized().double() @ constant_input


@dataclass(frozen=True)
class OperandGrid:
    """Uniform levels of an attention operand, per head and channel.

    scale: float32 (heads, 1, D), real value of one level. offset: float32 (heads, 1, D), real value of level 0 (zero
    for q). low, high: the smallest and largest level.
    """

    scale: Tensor
    offset: Tensor
    low: int
    high: int

    def quantize(self, x: Tensor) -> Tensor:
        """(..., heads, tokens, D) to what its levels stand for; a value on a threshold takes the lower level."""
        level = torch.ceil((x - self.offset) / self.scale - 0.5).clamp_(self.low, self.high)
        return level.mul_(self.scale).add_(self.offset)


@dataclass(frozen=True)
class FakeQuantAttention:
    """A quantized attention: grids of q, k, v and of the probabilities."""

    q: OperandGrid
    k: OperandGrid
    v: OperandGrid
    scores: ScoreGrid

    def __call__(self, call: AttentionCall) -> Tensor:
        """The result (..., heads, queries, D) of a call with quantized operands.

        The zero point of k is constant over keys and so without effect; that of v is added to the result as it is, as
        the rows of the quantized probabilities sum only about to one.
        """
        v = self.v.quantize(call.v) - self.v.offset
        table = self.scores.quantize((torch.arange(SCORE_TABLE, dtype=torch.float64) + 0.5) / SCORE_TABLE).float()
        operands = replace(call, q=self.q.quantize(call.q), k=self.k.quantize(call.k))
        mixed = []
        for head in range(call.q.shape[-3]):
            probability = operands.logits(head).softmax(dim=-1)
            if probability.shape[-1] > LONG_ROW_KEYS:
                quantized = self.scores.quantize(probability)
            else:
                quantized = table[probability.mul_(SCORE_TABLE).to(torch.int32).clamp_(max=SCORE_TABLE - 1)]
            mixed.append(quantized @ v[..., head, :, :])
        return torch.stack(mixed, dim=-3) + self.v.offset


FakeQuant: TypeAlias = FakeQuantLinear | FakeQuantAttention


def fake_quant_runner(quantized: Mapping[str, FakeQuant]) -> Callable[[Call], Tensor]:
    """A handler for `run`: quantized where `quantized` has the name, float elsewhere."""

    def handler(call: Call) -> Tensor:
        operation = quantized.get(call.name)
        if isinstance(operation, FakeQuantLinear) and isinstance(call, LayerCall):
            return operation(call.x)
        if isinstance(operation, FakeQuantAttention) and isinstance(call, AttentionCall):
            return operation(call)
        return call.compute()

    return handler
