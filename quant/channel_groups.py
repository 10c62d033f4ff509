"""Which input channels share a K tile, and so an activation scale.

Channel-aware grouping (CAG, AHCQ-SAM, arXiv 2503.03088v4) gives channels of like range one scale. The
paper stops at four groups, because its hardware pays for each; here the rescale behind the array is free per K tile,
so the finest grouping is one group per tile of 64 channels, and grouping is a sort. The paper's four groups can be
asked for too, to compare.

Offsets stay per channel: they fold into the bias. So a channel's error depends on the width of its range and not on
where the range lies. The published code clusters pairs (scale, zero point) without normalising them; zero points span
0 to 15 and scales 0.01 to 1, so its groups gather like zero points of unlike widths. Here widths alone decide.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from sim.contract.constants import TILE_CHANNELS

ChannelGrouping = Literal["off", "4", "tile"]
"""Groups of channels that share a scale: one of all channels, four, or one per K tile."""

FEW_GROUPS = 4
"""Groups of the paper's channel-aware grouping."""


@dataclass(frozen=True)
class ChannelArrangement:
    """permutation: int64 (C,), channel at each position; group_of_tile: int64 (tiles,), which group's scale each K tile
    takes, 0 for the first, ascending."""

    permutation: Tensor
    group_of_tile: Tensor


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


def _group_tiles(width: Tensor, importance: Tensor) -> Tensor:
    """Groups (tiles,) of channels in permuted order, widths (C,) descending: at most FEW_GROUPS runs of whole tiles.

    Exact, by dynamic programming: all channels of a group share the step of its widest, its first, so a run costs that
    width squared times the importance within. Nothing is seeded, and no tile straddles two groups.
    """
    first = width[::TILE_CHANNELS]
    tiles = first.numel()
    padded = torch.nn.functional.pad(importance, (0, tiles * TILE_CHANNELS - importance.numel()))
    held = torch.cat([torch.zeros(1, dtype=torch.float64), padded.view(tiles, TILE_CHANNELS).sum(dim=1).cumsum(dim=0)])
    # run[i, j]: cost of one group of the tiles i to j - 1; infinite where that is empty.
    run = first.square()[:, None] * (held[None, :] - held[:-1, None])
    run = run.masked_fill(torch.arange(tiles + 1)[None, :] <= torch.arange(tiles)[:, None], torch.inf)
    cost = run[0]
    begins: list[Tensor] = []
    for _ in range(min(FEW_GROUPS, tiles) - 1):
        cost, begin = (cost[:-1, None] + run).min(dim=0)
        begins.append(begin)
    group_of_tile = torch.zeros(tiles, dtype=torch.int64)
    end = tiles
    for begin in reversed(begins):
        end = int(begin[end])
        group_of_tile[end:] += 1
    return group_of_tile


def arrange_channels(low: Tensor, high: Tensor, grouping: ChannelGrouping, importance: Tensor) -> ChannelArrangement:
    """Order of channels and the group of each K tile.

    low, high: float (C,), range of each channel, robust against outliers (see `spread`); importance: float (C,),
    non-negative, how strongly the layer's outputs depend on each channel.
    "off": channels as they are, one group. "tile": channels from wide to narrow, each tile a group. "4": the same
    order, cut at tile borders into four groups (fewer where there are fewer tiles) so that the sum over channels of
    importance times squared step of the group is least.

    Raises ValueError for an unknown grouping, shapes that differ, or a range or importance that is negative.
    """
    if grouping not in get_args(ChannelGrouping):
        raise ValueError(f"unknown channel grouping {grouping!r}; known: {', '.join(get_args(ChannelGrouping))}")
    if low.dim() != 1 or not (low.shape == high.shape == importance.shape):
        raise ValueError("low, high and importance must have one value per channel")
    width = (high - low).double()
    if not ((width >= 0).all() and (importance >= 0).all()):
        raise ValueError("ranges must have high >= low, and importance must not be negative")
    channels = width.numel()
    tiles = int(tile_of_position(channels)[-1]) + 1
    if grouping == "off":
        return ChannelArrangement(torch.arange(channels), torch.zeros(tiles, dtype=torch.int64))
    permutation = group_channels(width)
    if grouping == "tile":
        return ChannelArrangement(permutation, torch.arange(tiles))
    return ChannelArrangement(permutation, _group_tiles(width[permutation], importance[permutation].double()))
