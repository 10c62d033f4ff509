"""Attention head by head: an attention and the dense layer in front of it, cut down to some of the heads.

Heads know nothing of each other until the layer behind them, so near memory need hold q, k and v of some alone.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sim.contract.attention import Attention, DecomposedBias, StaticBias
from sim.contract.constants import TILE_CHANNELS
from sim.contract.encoder import Encoder
from sim.contract.layer import QuantizedLayer


def group_sizes(attention: Attention) -> list[int]:
    """Heads that may stand together, the most first: K tiles of the encoders are shared by the heads of one group."""
    width = attention.q.channels // attention.heads
    sizes = [1 << power for power in range(attention.heads.bit_length() - 1, -1, -1) if 1 << power < attention.heads]
    fitting = [size for size in sizes if size * width % TILE_CHANNELS == 0 or TILE_CHANNELS % (size * width) == 0]
    return [attention.heads, *fitting]


def layer_of(layer: QuantizedLayer, channels: NDArray[np.int64]) -> QuantizedLayer:
    """The layer whose results are these channels of another's, in this order."""
    return replace(
        layer,
        weight=np.ascontiguousarray(layer.weight[channels]),
        scale=np.ascontiguousarray(layer.scale[:, channels]),
        bias=layer.bias[channels],
    )


def attention_of(attention: Attention, heads: range) -> Attention:
    """The attention of these heads alone, a group of `group_sizes`."""
    if len(heads) == attention.heads:
        return attention
    width = attention.q.channels // attention.heads
    head, channel = slice(heads.start, heads.stop), slice(heads.start * width, heads.stop * width)
    position = attention.position
    if isinstance(position, StaticBias):
        position = replace(position, table=position.table[head])
    elif isinstance(position, DecomposedBias):
        position = replace(
            position,
            rel_rows=position.rel_rows[head],
            rel_columns=position.rel_columns[head],
            row_scale=position.row_scale[head],
            column_scale=position.column_scale[head],
        )
    return replace(
        attention,
        heads=len(heads),
        q=_encoder_of(attention.q, channel),
        k=_encoder_of(attention.k, channel),
        v=_encoder_of(attention.v, channel),
        logit_scale=attention.logit_scale[head],
        scale=attention.scale[channel],
        bias=attention.bias[channel],
        position=position,
    )


def _encoder_of(encoder: Encoder, channels: slice) -> Encoder:
    """Of channels in their order: whole K tiles, or a part of one."""
    tiles = slice(channels.start // TILE_CHANNELS, -(-channels.stop // TILE_CHANNELS))
    return replace(
        encoder,
        permutation=np.arange(channels.stop - channels.start, dtype=np.uint16),
        multiplier=encoder.multiplier[channels],
        addend=encoder.addend[channels],
        shift=encoder.shift[tiles],
        levels=encoder.levels if len(encoder.levels) == 1 else encoder.levels[tiles],
    )
