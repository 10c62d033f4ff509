"""What a LayerNorm of the contract becomes on the streams of a LayerNormUnit."""

from typing import Any

import numpy as np
from amaranth.hdl import signed, unsigned
from amaranth.lib import data
from numpy.typing import NDArray

from hdl.layer_norm.geometry import LayerNormGeometry
from hdl.layer_norm.lane import MAX_SHIFT
from hdl.layer_norm.reciprocal_root import EPSILON_BITS
from sim.contract.constants import BIAS_BITS, WIDE_BITS
from sim.contract.layer_norm import LayerNorm

TOKENS_BITS = 16
"""Width of a command's token count."""


def command_layout(geometry: LayerNormGeometry) -> data.StructLayout:
    """One layer over `tokens` tokens; `shift` and `epsilon` as in the contract. 0 tokens: nothing happens."""
    return data.StructLayout(
        {
            "tokens": unsigned(TOKENS_BITS),
            "channels": range(geometry.depth + 1),
            "epsilon": unsigned(EPSILON_BITS),
            "shift": range(MAX_SHIFT + 1),
        }
    )


def parameter_layout(geometry: LayerNormGeometry) -> data.StructLayout:
    """The affine of the result at `position`, and the channel it reads (where the unit is permuted)."""
    fields: dict[str, Any] = {"position": unsigned(geometry.channel_bits)}
    if geometry.permuted:
        fields["channel"] = unsigned(geometry.channel_bits)
    return data.StructLayout(fields | {"gain": signed(WIDE_BITS), "bias": signed(BIAS_BITS)})


def order_of(
    geometry: LayerNormGeometry, layer: LayerNorm, permutation: NDArray[np.integer] | None
) -> NDArray[np.int64]:
    """The channel at each position of a result, int64 (C,); `permutation` None keeps the order.

    Raises ValueError when the layer is too wide for the unit, or an order is asked of a unit that has none, or
    reads a channel that is not there.
    """
    channels = layer.gain.size
    if channels > geometry.depth:
        raise ValueError(f"{layer.name} has {channels} channels, more than depth={geometry.depth}; build a deeper unit")
    if permutation is None:
        return np.arange(channels)
    if not geometry.permuted:
        raise ValueError(f"{layer.name}: a unit with permuted=0 keeps the order of channels; build it with permuted=1")
    order = np.asarray(permutation, np.int64)
    if order.shape != (channels,) or order.min() < 0 or order.max() >= channels:
        raise ValueError(f"{layer.name}: a permutation names {channels} channels from 0 to {channels - 1}")
    return order


def command_of(geometry: LayerNormGeometry, layer: LayerNorm, tokens: int) -> dict[str, int]:
    """The payload of `i_command`. Raises ValueError when the layer is too wide or tokens is outside 0..65535."""
    order_of(geometry, layer, None)
    if not 0 <= tokens < 1 << TOKENS_BITS:
        raise ValueError(f"tokens={tokens} must be in 0..65535; nearest valid value: {min(max(tokens, 0), 65535)}")
    return {"tokens": tokens, "channels": layer.gain.size, "epsilon": layer.epsilon, "shift": layer.shift}


def parameters_of(
    geometry: LayerNormGeometry, layer: LayerNorm, permutation: NDArray[np.integer] | None = None
) -> list[dict[str, int]]:
    """The payloads of `i_parameters`, one per position; errors as in `order_of`."""
    words = []
    for position, channel in enumerate(order_of(geometry, layer, permutation).tolist()):
        word = {"position": position, "gain": int(layer.gain[channel]), "bias": int(layer.bias[channel])}
        words.append(word | ({"channel": channel} if geometry.permuted else {}))
    return words


def transfers_of(geometry: LayerNormGeometry, tokens: NDArray[np.integer]) -> NDArray[np.int64]:
    """Tokens (tokens, C) as transfers int64 (tokens * groups, lanes); surplus lanes of a last transfer are 0."""
    count, channels = tokens.shape
    padded = np.zeros((count, geometry.groups(channels) * geometry.lanes), np.int64)
    padded[:, :channels] = tokens
    return padded.reshape(-1, geometry.lanes)
