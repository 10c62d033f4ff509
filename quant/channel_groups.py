"""Which input channels share a K tile, and so an activation scale.

Channel-aware grouping (CAG) gives channels of like range one scale. The paper stops at four groups, because
its hardware pays for each; here the rescale behind the array is free per K tile, so a group is exactly one
tile of 64 channels, and grouping is a sort. Offsets stay per channel: they fold into the bias.
"""

import torch
from torch import Tensor

from sim.contract.constants import TILE_CHANNELS


def spread(x: Tensor, tail: float = 1e-3) -> Tensor:
    """Half the distance between the `tail` and `1 - tail` quantiles of every channel: (tokens, K) to (K,), positive.

    Quantiles, because one token in a thousand must not decide the step of all others.
    """
    tokens = x.shape[0]
    ordered = x.sort(dim=0).values
    low, high = ordered[int(tail * (tokens - 1))], ordered[int((1 - tail) * (tokens - 1) + 0.5)]
    return ((high - low) / 2).clamp_min(1e-6)


def group_channels(channel_spread: Tensor) -> Tensor:
    """Permutation (K,) int64: channels from wide to narrow, so that each run of 64 positions has like spreads.

    The wide ones come first, where error-compensating rounding still has all later columns to compensate with.
    """
    return torch.argsort(channel_spread, descending=True, stable=True)


def tile_of_position(inputs: int) -> Tensor:
    """K tile of each permuted position: (K,) int64."""
    return torch.arange(inputs) // TILE_CHANNELS
