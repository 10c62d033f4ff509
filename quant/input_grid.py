"""The input side of a quantized layer: channel order, one scale and level set per K tile, one offset per channel.

A position p of tile t holding level L stands for scale[t] * (L + offset[p]). Every quantizer of inputs has this form:
uniform levels, the curved codebooks of the family, bytes, and HLUQ (`quant.hluq`). They differ in their levels alone.
The fitters here choose scale, levels and offsets that minimise the squared error of a sample of inputs, each channel
weighted by how strongly the outputs of the layer depend on it.
"""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from quant.channel_groups import ChannelArrangement, tile_of_position
from quant.codebooks import codebook_family

SAMPLE_TOKENS: Final = 4096
"""Tokens on which an input grid is fitted."""

SUMMARY_POINTS: Final = 96
"""Points that stand for the distribution of one channel while candidates are compared."""

SPAN_CANDIDATES: Final = (0.45, 0.55, 0.65, 0.75, 0.85, 0.95, 1.1, 1.3)
"""Half-ranges of a level set that are tried, in units of the widest spread of the group."""

BYTE_HEADROOM: Final = 1.1
"""Range of 256 levels over the range of the widest channel of the group: clipping costs more than coarser steps."""

LEVEL_LOW: Final = -128
LEVEL_HIGH: Final = 127

HALF_STEPS: Final = 2 * (LEVEL_HIGH - LEVEL_LOW) + 2
"""Entries of a level table: one for each half step of a value in units of levels."""

LARGEST_OFFSET: Final = 60000.0
"""Offsets are stored in 16 bits, so a scale is at least the largest offset over this."""


def store_offset(offset: Tensor) -> Tensor:
    """Offsets as they are stored: rounded to 16 bits, before anything is built on them."""
    return offset.half().float()


@dataclass(frozen=True)
class InputGrid:
    """How inputs become codes.

    permutation: int64 (C,), channel of each position; scale: float32 (tiles,), one level; offset: float32 (C,) in
    levels, permuted order, representable in 16 bits; levels: per tile int64 (2**bits,), ascending in [-128, 127].
    The code of a value is the index of its nearest level; on a midpoint the lower level wins.
    """

    permutation: Tensor
    scale: Tensor
    offset: Tensor
    levels: tuple[Tensor, ...]
    bits: int

    def __post_init__(self) -> None:
        if len(self.levels) != self.scale.numel():
            raise ValueError(f"{len(self.levels)} level sets for {self.scale.numel()} tiles")
        every = torch.stack(self.levels)
        if every.shape[1] != 2**self.bits:
            raise ValueError(f"{self.bits} bits have {2**self.bits} levels, not {every.shape[1]}")
        if int(every.min()) < LEVEL_LOW or int(every.max()) > LEVEL_HIGH or not bool((every.diff(dim=1) > 0).all()):
            raise ValueError(f"levels are distinct, ascending and lie in [{LEVEL_LOW}, {LEVEL_HIGH}]")

    def _half_steps(self, x: Tensor) -> Tensor:
        """Half step of each value: float32 (tokens, C) permuted, j for a value in ((j-1)/2, j/2] levels."""
        scale = self.scale[tile_of_position(self.offset.numel())]
        return x[:, self.permutation].div_(scale).sub_(self.offset).mul_(2).ceil_()

    def _entries(self, x: Tensor) -> Tensor:
        """Entry of each value in the flattened tables of all tiles: int32 (tokens, C), permuted."""
        tile = tile_of_position(self.offset.numel()).float()
        half_step = self._half_steps(x).clamp_(2 * LEVEL_LOW, 2 * LEVEL_LOW + HALF_STEPS - 1)
        return half_step.add_(tile * HALF_STEPS - 2 * LEVEL_LOW).to(torch.int32)

    def code_table(self) -> Tensor:
        """Code of each half step: int64 (tiles, HALF_STEPS), entry j for values in ((j-257)/2, (j-256)/2] levels."""
        levels = torch.stack(self.levels).double()
        # Thresholds are midpoints of integers, so the half step of a value decides its level exactly.
        thresholds = (levels[:, 1:] + levels[:, :-1]) / 2
        half_steps = torch.arange(HALF_STEPS, dtype=torch.float64) / 2 + LEVEL_LOW
        return torch.searchsorted(thresholds, half_steps.expand(len(self.levels), -1).contiguous(), side="left")

    def codes(self, x: Tensor) -> Tensor:
        """Codes of `x`, float32 (tokens, C) in channel order: uint8 (tokens, C), permuted."""
        return self.code_table().to(torch.uint8).flatten()[self._entries(x)]

    def quantize(self, x: Tensor) -> Tensor:
        """What the codes of `x` stand for: float32 (tokens, C) in channel order to the same shape, permuted."""
        tile = tile_of_position(self.offset.numel())
        low = torch.stack([levels[0] for levels in self.levels]).float()[tile]
        high = torch.stack([levels[-1] for levels in self.levels]).float()[tile]
        if bool((high - low == 2**self.bits - 1).all()):
            # Consecutive integers need no table: the level is the half step halved, rounded down.
            level = self._half_steps(x).div_(2).floor_().clamp_(low, high)
        else:
            table = torch.stack(self.levels).gather(1, self.code_table()).float()
            level = table.flatten()[self._entries(x)]
        return level.add_(self.offset).mul_(self.scale[tile])


def uniform_levels(bits: int) -> Tensor:
    """Consecutive integers from -2**(bits-1): int64 (2**bits,)."""
    return torch.arange(2**bits) - 2 ** (bits - 1)


def _summarise(x: Tensor) -> tuple[Tensor, Tensor]:
    """Points (SUMMARY_POINTS, C) and their weights (SUMMARY_POINTS,): means of slices of the sorted sample, the
    slices thinner towards both tails."""
    ordered = x.sort(dim=0).values.double()
    tokens = ordered.shape[0]
    edge = torch.sigmoid(torch.linspace(-9, 9, SUMMARY_POINTS + 1))
    edge = (edge - edge[0]) / (edge[-1] - edge[0])
    rank = torch.unique((edge * tokens).round().long())
    total = torch.cat([torch.zeros(1, ordered.shape[1], dtype=torch.float64), ordered.cumsum(dim=0)])
    count = rank[1:] - rank[:-1]
    points = (total[rank[1:]] - total[rank[:-1]]) / count[:, None]
    return points.float(), (count / tokens).float()


def _nearest(value: Tensor, levels: Tensor) -> Tensor:
    """The nearest of ascending levels."""
    if float(levels[-1] - levels[0]) == levels.numel() - 1:
        return (value - 0.5).ceil_().clamp_(float(levels[0]), float(levels[-1]))
    thresholds = (levels[1:] + levels[:-1]) / 2
    return levels[torch.bucketize(value, thresholds)]


def _errors(points: Tensor, weights: Tensor, importance: Tensor, offset: Tensor, levels: Tensor) -> Tensor:
    """Weighted squared error of each (candidate, channel): points (P, C), offset (candidates, C or 1), in levels."""
    value = points[None] - offset[:, None]
    return ((_nearest(value, levels) - value).square() * weights[None, :, None]).sum(dim=1) * importance


def _anchor_offsets(points: Tensor, levels: Tensor, per_channel: bool) -> Tensor:
    """Offsets to start from (candidates, C), or (candidates, 1) for all channels together: from lowest sample on
    lowest level to highest sample on highest level, and per channel also quartiles and median laid on levels."""
    count = points.shape[0]
    low, high = points[min(1, count - 1)], points[max(count - 2, 0)]
    if not per_channel:
        low, high = low.min()[None], high.max()[None]
    ends = torch.stack([low - levels[0], high - levels[-1]])
    anchors = torch.lerp(ends[:1], ends[1:], torch.linspace(0, 1, 5 if per_channel else 9)[:, None])
    if not per_channel:
        return anchors
    quarters = [points[count * place // 4] - levels[levels.numel() * place // 4] for place in (1, 2, 3)]
    return torch.cat([anchors, torch.stack(quarters)])


def _choose(errors: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Least error, summed over channels, and the offsets that give it: per channel, or one for all channels."""
    if offsets.shape[1] == 1:
        total, choice = errors.sum(dim=1).min(dim=0)
        return total, offsets[choice]
    error, choice = errors.min(dim=0)
    return error.sum(), offsets.gather(0, choice[None])[0]


def _fit_group(
    points: Tensor, weights: Tensor, importance: Tensor, family: list[Tensor], channel_offsets: bool
) -> tuple[float, Tensor, Tensor]:
    """Scale, offsets (C,) and levels of a group of C channels."""
    count, channels = points.shape
    least = float(points.abs().max()) / LARGEST_OFFSET
    low, high = points[min(2, count - 1)], points[max(count - 3, 0)]
    widest = float((high - low).max() if channel_offsets else high.max() - low.min()) / 2
    best: tuple[float, float, Tensor, Tensor] | None = None
    for levels in family:
        half_range = float(levels[-1] - levels[0]) / 2
        for span in SPAN_CANDIDATES:
            scale = max(span * max(widest, 1e-6) / half_range, least)
            scaled = points / scale
            offsets = _anchor_offsets(scaled, levels, channel_offsets)
            error, offset = _choose(_errors(scaled, weights, importance, offsets, levels), offsets)
            total = float(error) * scale**2
            if best is None or total < best[0]:
                best = (total, scale, offset, levels)
    assert best is not None
    _, scale, offset, levels = best
    scaled = points / scale
    for step in (1.0, 0.5, 0.25, 0.125):
        offsets = offset + step * torch.tensor([-1.0, 0.0, 1.0])[:, None]
        _, offset = _choose(_errors(scaled, weights, importance, offsets, levels), offsets)
    return scale, offset.expand(channels), levels.long()


def _positions_of_groups(group_of_tile: Tensor, channels: int) -> list[tuple[Tensor, Tensor]]:
    """Tiles and positions of each group."""
    tile = tile_of_position(channels)
    if group_of_tile.numel() != int(tile[-1]) + 1:
        raise ValueError(f"{group_of_tile.numel()} groups of tiles for {channels} channels")
    groups = [(group_of_tile == group).nonzero()[:, 0] for group in group_of_tile.unique()]
    return [(tiles, torch.isin(tile, tiles).nonzero()[:, 0]) for tiles in groups]


def _fit(
    x: Tensor, importance: Tensor, arrangement: ChannelArrangement, family: list[Tensor], channel_offsets: bool
) -> InputGrid:
    permutation, group_of_tile = arrangement.permutation, arrangement.group_of_tile
    x = x[:: max(1, x.shape[0] // SAMPLE_TOKENS)]
    points, weights = _summarise(x[:, permutation])
    scale, offset = torch.empty(group_of_tile.numel()), torch.empty(permutation.numel())
    levels = [family[0]] * group_of_tile.numel()
    for tiles, positions in _positions_of_groups(group_of_tile, permutation.numel()):
        group_importance = importance[permutation[positions]]
        scale[tiles], offset[positions], group_levels = _fit_group(
            points[:, positions], weights, group_importance, family, channel_offsets
        )
        for tile in tiles.tolist():
            levels[tile] = group_levels
    bits = family[0].numel().bit_length() - 1
    return InputGrid(permutation, scale, store_offset(offset), tuple(levels), bits)


def _fit_bytes(x: Tensor, arrangement: ChannelArrangement, channel_offsets: bool) -> InputGrid:
    """256 levels over the whole range of the sample, with BYTE_HEADROOM."""
    permutation, group_of_tile = arrangement.permutation, arrangement.group_of_tile
    low, high = x[:, permutation].amin(dim=0), x[:, permutation].amax(dim=0)
    scale, offset = torch.empty(group_of_tile.numel()), torch.empty(permutation.numel())
    for tiles, positions in _positions_of_groups(group_of_tile, permutation.numel()):
        bottom, top = low[positions], high[positions]
        if not channel_offsets:
            bottom, top = bottom.min(), top.max()
        least = torch.maximum(bottom.abs(), top.abs()).max() / LARGEST_OFFSET
        group_scale = torch.maximum(BYTE_HEADROOM * (top - bottom).max() / 255, least).clamp_min(1e-8)
        scale[tiles] = group_scale
        offset[positions] = (bottom + top) / 2 / group_scale + 0.5
    return InputGrid(permutation, scale, store_offset(offset), (uniform_levels(8),) * group_of_tile.numel(), 8)


def fit_uniform(
    x: Tensor, importance: Tensor, arrangement: ChannelArrangement, bits: int, channel_offsets: bool = True
) -> InputGrid:
    """Scales and offsets of 2**bits uniform levels (bits 4 to 8) for inputs like `x`.

    x: float32 (tokens, C) sample in channel order; importance: float32 (C,), non-negative, for example the squared
    norm of each column of the weight; arrangement: order of the channels and groups of tiles that share a scale.
    `channel_offsets` False gives the channels of a group one offset, as channel-aware grouping does in the paper;
    offsets per channel cost nothing, as they fold into the bias. 8 bits cover the range of the sample with headroom
    and need no importance.
    """
    if bits == 8:
        return _fit_bytes(x, arrangement, channel_offsets)
    return _fit(x, importance, arrangement, [uniform_levels(bits).float()], channel_offsets)


def fit_codebooks(x: Tensor, importance: Tensor, arrangement: ChannelArrangement) -> InputGrid:
    """Scales, offsets and, for each group, the best of the sixteen 4-bit codebooks of `codebook_family`.

    Arguments as in `fit_uniform`.
    """
    family = list(torch.from_numpy(codebook_family()).float())
    return _fit(x, importance, arrangement, family, channel_offsets=True)
