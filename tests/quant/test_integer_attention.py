"""Attention in integers against fake quantization, without a position bias and with either kind."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from quant.agreement import float_result
from quant.fake_quant import FakeQuantAttention, OperandGrid
from quant.integer_attention import TABLE_MAX, integer_attention
from quant.integers import exponent_for
from quant.models.layer_call import AttentionCall, DecomposedBias, StaticBias
from quant.quantize_attention import quantize_attention
from quant.recipe import Recipe
from sim.contract import attention as contract
from sim.contract.wide import Wide, to_wide

SIDE, HEADS, WIDTH, WINDOWS = 5, 2, 16, 12


def _bias(kind: str) -> StaticBias | DecomposedBias | None:
    if kind == "none":
        return None
    if kind == "static":
        pixel = torch.arange(SIDE * SIDE)
        rows, columns = pixel // SIDE, pixel % SIDE
        index = (rows[:, None] - rows).abs() * SIDE + (columns[:, None] - columns).abs()
        return StaticBias(torch.randn(HEADS, SIDE * SIDE)[:, index])
    return DecomposedBias(0.3 * torch.randn(2 * SIDE - 1, WIDTH), 0.3 * torch.randn(2 * SIDE - 1, WIDTH), SIDE, SIDE)


@dataclass(frozen=True)
class Case:
    """An attention, what arrives at it, fake quantization's result and the integer operation."""

    attention: FakeQuantAttention
    inputs: tuple[Wide, Wide, Wide]
    wanted: Tensor
    exported: contract.Attention


def _heads(wide: Wide) -> Tensor:
    return torch.from_numpy(wide.real()).unflatten(-1, (HEADS, -1)).transpose(1, 2)


def make(kind: str, bits: int, score_bits: int) -> Case:
    torch.manual_seed(21)
    spread = torch.logspace(-0.3, 0.3, HEADS * WIDTH)
    parts = (torch.randn(WINDOWS, SIDE * SIDE, HEADS * WIDTH) * spread for _ in range(3))
    inputs = tuple(to_wide((x + 2).numpy(), exponent_for(float(x.abs().max()) + 2)) for x in parts)
    q, k, v = (_heads(one) for one in inputs)
    call = AttentionCall("attend", q - 2, k, v, WIDTH**-0.5, _bias(kind))
    inputs = (to_wide((q - 2).transpose(1, 2).flatten(2).numpy(), inputs[0].exponent), *inputs[1:])
    recipe = Recipe(bits=bits, byte_inputs=(), byte_scores=("*",) if score_bits == 8 else ())
    attention, _, _ = quantize_attention([call], recipe)
    wanted = attention(call)
    exponents = tuple(one.exponent for one in inputs)
    exported = integer_attention(attention, call, exponents, float(wanted.abs().max()))  # type: ignore[arg-type]
    return Case(attention, inputs, wanted.transpose(1, 2).flatten(2), exported)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["none", "static", "decomposed"])
@pytest.mark.parametrize(("bits", "score_bits"), [(4, 4), (5, 5), (6, 6), (8, 8), (4, 8)])
def test_attention_agrees_with_fake_quantization(kind: str, bits: int, score_bits: int) -> None:
    case = make(kind, bits, score_bits)
    assert (case.exported.q.bits, case.exported.score_bits) == (bits, score_bits)
    _, wide = case.exported.run(*case.inputs)
    error = np.abs(np.ldexp(wide.values.astype(float), wide.exponent) - case.wanted.numpy())
    # A code of P that lies on a threshold may be the next one; all else is rounding far below a code's step.
    spread = float(case.wanted.std())
    assert float(np.median(error)) < 0.01 * spread
    assert float(np.sqrt(np.square(error).mean())) < (0.03 if score_bits == 8 else 0.1) * spread


@pytest.mark.parametrize("kind", ["none", "static", "decomposed"])
def test_attention_is_off_its_float_twin_by_few_steps_but_for_codes_on_thresholds(kind: str) -> None:
    case = make(kind, 8, 8)
    _, wide = case.exported.run(*case.inputs)
    error = np.abs(wide.values - float_result(case.exported, case.inputs))
    step = float(case.exported.score_levels[1]) * 128 * float(case.exported.scale.max()) / 1024
    assert float(np.median(error)) < 40 and error.max() < 40 * max(step, 1.0)


def test_tables_of_relative_positions_fit_two_signed_nibbles_and_use_them() -> None:
    position = make("decomposed", 4, 4).exported.position
    assert isinstance(position, contract.DecomposedBias)
    for table in (position.rel_rows, position.rel_columns):
        assert TABLE_MAX * 0.8 <= np.abs(table.astype(int)).max() <= TABLE_MAX


def test_a_static_bias_is_the_table_by_distance() -> None:
    torch.manual_seed(21)
    position = make("static", 4, 4).exported.position
    assert isinstance(position, contract.StaticBias) and position.window == SIDE
    assert position.pairs.shape == (HEADS, SIDE * SIDE, SIDE * SIDE)


@pytest.mark.parametrize("high", [7, 119])
def test_no_exported_attention_overflows(high: int) -> None:
    """Operands at their ends with steps of one, and a result that calibration never saw."""
    torch.manual_seed(22)
    zeros = torch.zeros(1, 1, 3, 8)
    grid = OperandGrid(torch.ones(1, 1, 8), torch.zeros(1, 1, 8), -8 if high == 7 else -128, high)
    scores = make("none", 4, 4).attention.scores
    call = AttentionCall("attend", zeros, zeros, zeros, 8**-0.5)
    exported = integer_attention(FakeQuantAttention(grid, grid, grid, scores), call, (0, 0, 0), 0.0)
    limit = 65535 if high == 7 else 255
    assert int(exported.logit_scale.max()) <= limit


def test_large_steps_of_logits_cost_fraction_bits_and_no_range() -> None:
    zeros = torch.zeros(1, 1, 3, 8)
    grid = OperandGrid(torch.full((1, 1, 8), 0.05), torch.zeros(1, 1, 8), -128, 119)
    attention = FakeQuantAttention(grid, grid, grid, make("none", 4, 4).attention.scores)
    call = AttentionCall("attend", zeros, zeros, zeros, 1.0)
    exported = integer_attention(attention, call, (-8, -8, -8), 10.0)
    assert exported.logit_shift < 10 and 128 <= int(exported.logit_scale[0]) <= 255
    # The step of q moved by no more than the rounding of the scale.
    assert int(exported.q.level(exported.q.encode(to_wide(np.full((1, 1, 8), 1.0, np.float32), -8)))[0, 0, 0]) == 20
