"""Some heads of an attention are that part of it."""

from typing import Any

import numpy as np
import pytest

from sim.compiler.head_groups import attention_of, group_sizes, layer_of
from sim.contract.attention import Attention
from sim.contract.layer import QuantizedLayer
from sim.contract.wide import Wide


def operation(toy: Any, end: str) -> Any:
    return next(one for name, one in toy.parameters.operations.items() if name.endswith(end))


@pytest.mark.parametrize("size", [4, 2, 1])
def test_heads_of_a_group_give_their_channels(toy_tiny_vit: Any, size: int) -> None:
    attention: Attention = operation(toy_tiny_vit, "layers.1.blocks.0.attn.attend")
    assert size in group_sizes(attention)
    width = attention.q.channels // attention.heads
    parts = [
        Wide(values, attention.q.input_exponent)
        for values in np.random.default_rng(5).integers(-2000, 2000, (3, 2, 25, attention.q.channels), np.int16)
    ]
    whole = attention.run(*parts)[1].values
    for first in range(0, attention.heads, size):
        channels = slice(first * width, (first + size) * width)
        group = attention_of(attention, range(first, first + size))
        result = group.run(*(part.with_values(part.values[..., channels]) for part in parts))[1]
        np.testing.assert_array_equal(result.values, whole[..., channels])


def test_decomposed_positions_are_those_of_the_heads(toy_sam_vit: Any) -> None:
    attention: Attention = operation(toy_sam_vit, "blocks.0.attn.attend")
    parts = [
        Wide(values, attention.q.input_exponent)
        for values in np.random.default_rng(6).integers(-2000, 2000, (3, 1, 9, attention.q.channels), np.int16)
    ]
    whole, half = attention.run(*parts)[1].values, attention.q.channels // 2
    result = attention_of(attention, range(1, 2)).run(*(part.with_values(part.values[..., half:]) for part in parts))[1]
    np.testing.assert_array_equal(result.values, whole[..., half:])


def test_a_layer_gives_channels_in_any_order(toy_tiny_vit: Any) -> None:
    layer: QuantizedLayer = operation(toy_tiny_vit, "layers.1.blocks.0.attn.qkv")
    values = np.random.default_rng(7).integers(-2000, 2000, (6, layer.encoder.channels), np.int16)
    channels = np.array([40, 41, 3, 200])
    x = Wide(values, layer.encoder.input_exponent)
    np.testing.assert_array_equal(layer_of(layer, channels).run(x)[1].values, layer.run(x)[1].values[:, channels])
