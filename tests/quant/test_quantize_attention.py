"""One attention: which probabilities are looked at, and what the recipe decides about its operands and codes."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from quant.models.layer_call import AttentionCall, StaticBias
from quant.quantize_attention import SAMPLE_WINDOWS, quantize_attention, sample_scores
from quant.recipe import Recipe, ScoreCodes, strict

HEADS, TOKENS, WIDTH = 3, 20, 8
NAME = "image_encoder.blocks.0.attn.attend"
NIBBLES = strict(Recipe())


def attention_call(windows: int, seed: int = 0, name: str = NAME) -> AttentionCall:
    """Logits of a spread near 2 with a bias by pairs; values that differ from window to window."""
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(windows, HEADS, TOKENS, WIDTH, generator=generator) for _ in range(3))
    bias = StaticBias(torch.randn(HEADS, TOKENS, TOKENS, generator=generator))
    return AttentionCall(name, 2 * q, k, v + torch.randn(WIDTH, generator=generator), WIDTH**-0.5, bias)


def relative_error(call: AttentionCall, recipe: Recipe) -> float:
    """Squared error of the quantized attention over the variance of the float one."""
    attention, _, _ = quantize_attention([call], recipe)
    wanted = call.compute()
    return float((attention(call) - wanted).square().mean() / wanted.var())


@pytest.mark.parametrize(("windows", "looked_at"), [(1, 2), (5, 5), (SAMPLE_WINDOWS, 8), (2 * SAMPLE_WINDOWS, 8)])
def test_a_sample_is_of_whole_rows_of_few_windows(windows: int, looked_at: int) -> None:
    scores, values = sample_scores([attention_call(windows), attention_call(windows, 1)])
    assert scores.shape == (2 * looked_at, TOKENS, TOKENS) and values.shape == (2 * looked_at, TOKENS, WIDTH)
    torch.testing.assert_close(scores.sum(dim=-1), torch.ones(2 * looked_at, TOKENS))


@pytest.mark.parametrize("windows", [1, 6])
def test_scores_and_values_are_of_one_window_and_head_and_heads_take_turns(windows: int) -> None:
    calls = [attention_call(windows), attention_call(windows, 1)]
    scores, values = sample_scores(calls)
    mixed = scores @ values
    heads: list[int] = []
    per_picture = mixed.shape[0] // 2
    for index, one in enumerate(mixed):
        results = calls[index // per_picture].compute().flatten(0, 1)
        (found,) = [place for place, result in enumerate(results) if torch.allclose(result, one, atol=1e-5)]
        heads.append(found % HEADS)
    assert set(heads) == set(range(HEADS))


@pytest.mark.parametrize("codes", ["lnq", "agq", "uniform"])
@pytest.mark.parametrize("acnr", [False, True])
def test_codes_of_probabilities_follow_their_own_switch_alone(codes: ScoreCodes, acnr: bool) -> None:
    """In one public version conditioning decided over them, in the encoder only."""
    for name in (NAME, "mask_decoder.transformer.layers.0.self_attn.attend"):
        recipe = replace(NIBBLES, scores=codes, acnr=acnr, hluq=acnr, cag="4" if acnr else "tile")
        attention, choice, _ = quantize_attention([attention_call(4, name=name)], recipe)
        assert choice["codes"] == {"lnq": "LNQ", "agq": "AGQ", "uniform": "uniform"}[codes]
        assert attention.scores.levels.numel() == 16 and choice["error"] > 0


def test_bits_of_operands_and_of_probabilities_are_chosen_by_name() -> None:
    recipe = Recipe(bits=5, byte_inputs=(NAME,), byte_scores=())
    attention, _, _ = quantize_attention([attention_call(2)], recipe)
    assert [(grid.low, grid.high) for grid in (attention.q, attention.k, attention.v)] == [(-128, 127)] + [
        (-128, 119)
    ] * 2
    assert attention.scores.levels.numel() == 32
    attention, _, _ = quantize_attention([attention_call(2)], Recipe(byte_inputs=(), byte_scores=(NAME,)))
    assert [(grid.low, grid.high) for grid in (attention.q, attention.k, attention.v)] == [(-8, 7)] * 3
    assert attention.scores.levels.numel() == 256


@pytest.mark.parametrize(("cag", "steps"), [("off", 1), ("4", 1), ("tile", HEADS * WIDTH)])
def test_steps_are_of_each_channel_with_tiles_and_of_the_tensor_otherwise(cag: str, steps: int) -> None:
    attention, _, _ = quantize_attention([attention_call(3)], replace(NIBBLES, cag=cag))  # type: ignore[arg-type]
    assert attention.v.scale.unique().numel() == steps
    assert attention.q.scale.shape == attention.k.scale.shape == (HEADS, 1, WIDTH)


def test_every_picture_counts_for_ranges() -> None:
    small, large = attention_call(3), attention_call(3, 1)
    large = replace(large, v=100 * large.v)
    alone, _, _ = quantize_attention([small], NIBBLES)
    both, _, _ = quantize_attention([small, large], NIBBLES)
    assert float((both.v.scale / alone.v.scale).min()) > 10


def test_more_bits_lower_the_error_of_the_result() -> None:
    call = attention_call(6)
    errors = [relative_error(call, replace(NIBBLES, bits=bits)) for bits in (4, 5, 6, 8)]
    assert all(after < 0.6 * before for before, after in pairwise(errors))
    assert errors[0] < 0.1 and errors[-1] < 1e-3


def test_the_sample_is_returned_for_the_report() -> None:
    calls = [attention_call(4)]
    _, _, scores = quantize_attention(calls, NIBBLES)
    expected: Tensor = sample_scores(calls)[0]
    assert torch.equal(scores, expected)
