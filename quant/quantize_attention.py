"""One attention: grids of q, k and v, and the codes of the probabilities by the error of the result."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from quant.agq import fit_agq
from quant.fake_quant import FakeQuantAttention
from quant.lnq import fit_lnq
from quant.models.layer_call import AttentionCall
from quant.operand_grid import fit_query_key, fit_value
from quant.recipe import Recipe
from quant.score_grid import ScoreGrid, fit_uniform_scores

SAMPLE_WINDOWS = 8
"""Windows of each picture whose probabilities are looked at."""


def sample_scores(calls: list[AttentionCall]) -> tuple[Tensor, Tensor]:
    """Probabilities (windows, queries, keys) and values (windows, keys, d) of one head after the other of each picture.

    Heads take turns over pictures and windows, so that all are seen without all being computed.
    """
    scores, values = [], []
    heads = calls[0].q.shape[-3]
    for number, call in enumerate(calls):
        q, k, v = (part.reshape(-1, *part.shape[-3:]) for part in (call.q, call.k, call.v))
        windows = q.shape[0]
        chosen = range(0, windows, max(1, windows // SAMPLE_WINDOWS))
        for turn, window in enumerate(chosen if windows > 1 else [0] * min(heads, 2)):
            head = (number + turn) % heads
            one = replace(call, q=q[window], k=k[window], v=v[window])
            scores.append(one.logits(head).softmax(dim=-1))
            values.append(v[window, head])
    return torch.stack(scores), torch.stack(values)


def _fit_scores(scores: Tensor, values: Tensor, recipe: Recipe, bits: int) -> tuple[ScoreGrid, dict[str, Any]]:
    if recipe.scores == "lnq":
        grid, lnq = fit_lnq(scores, values, bits)
        return grid, {"codes": "LNQ", **vars(lnq)}
    if recipe.scores == "agq":
        grid, agq = fit_agq(scores, values, bits)
        return grid, {"codes": "AGQ", **vars(agq)}
    grid, error = fit_uniform_scores(scores, values, bits)
    return grid, {"codes": "uniform", "error": error}


def quantize_attention(calls: list[AttentionCall], recipe: Recipe) -> tuple[FakeQuantAttention, dict[str, Any], Tensor]:
    """Quantize one attention on its calls behind the operations quantized so far.

    Returns the attention, what was chosen, and a sample of probabilities (windows, queries, keys).
    """
    bits = recipe.input_bits(calls[0].name)
    free_channels = recipe.cag == "tile"
    q, k = fit_query_key([call.q for call in calls], [call.k for call in calls], bits, free_channels)
    v = fit_value([call.v for call in calls], bits, free_channels)
    scores, values = sample_scores(calls)
    grid, choice = _fit_scores(scores, values, recipe, recipe.score_bits(calls[0].name))
    return FakeQuantAttention(q, k, v, grid), choice, scores
