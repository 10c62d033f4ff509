"""The input side of a quantized layer: channel order, one scale and codebook per K tile, one offset per channel.

A position p of tile t with code a stands for scale[t] * (codebooks[t, a] + offset[p]). Scale, codebook and
offsets are chosen to minimise the squared error of a sample of inputs, each channel weighted by how strongly
the layer's outputs depend on it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from quant.channel_groups import group_channels, spread, tile_of_position
from quant.codebooks import codebook_family
from sim.contract.constants import LEVEL_MAX, TILE_CHANNELS

SAMPLE_TOKENS = 4096
"""Tokens on which an input grid is fitted."""

SUMMARY_POINTS = 96
"""Points that stand for the distribution of one channel while candidates are compared."""

SPAN_CANDIDATES = (0.45, 0.55, 0.65, 0.75, 0.85, 0.95, 1.1, 1.3)
"""Half-ranges of a codebook that are tried, in units of the widest spread of the tile."""

HALF_STEPS = 4 * LEVEL_MAX + 1


@dataclass(frozen=True)
class ActivationGrid:
    """How inputs become codes. permutation: int64 (K,); scale: float32 (tiles,); offset: float32 (K,) in levels,
    permuted order; codebooks: int8 (tiles, 16), ascending rows."""

    permutation: Tensor
    scale: Tensor
    offset: Tensor
    codebooks: Tensor

    def level_table(self) -> Tensor:
        """Level of each half step: float32 (tiles, HALF_STEPS), entry j for values within ((j-31)/2, (j-30)/2]."""
        half_steps = (torch.arange(HALF_STEPS, dtype=torch.float32) - 2 * LEVEL_MAX) / 2
        rows = []
        for levels in self.codebooks.to(torch.float32):
            thresholds = (levels[1:] + levels[:-1]) / 2
            rows.append(levels[torch.searchsorted(thresholds, half_steps, side="left")])
        return torch.stack(rows)

    def quantize(self, x: Tensor) -> Tensor:
        """What the codes of `x` stand for: float32 (tokens, K) in channel order to the same shape in permuted order.

        Thresholds are midpoints of integers, so a value's half step decides its level exactly.
        """
        tile = tile_of_position(self.offset.numel())
        scale = self.scale[tile]
        half_step = x[:, self.permutation].div_(scale).sub_(self.offset).mul_(2).ceil_().add_(2 * LEVEL_MAX)
        entry = half_step.clamp_(0, HALF_STEPS - 1).add_(tile.float() * HALF_STEPS).to(torch.int32)
        level = self.level_table().flatten()[entry]
        return level.add_(self.offset).mul_(scale)


def _summarise(x: Tensor) -> tuple[Tensor, Tensor]:
    """Points (SUMMARY_POINTS, K) and their weights (SUMMARY_POINTS,): means of slices of the sorted sample, the
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
    thresholds = (levels[1:] + levels[:-1]) / 2
    return levels[torch.bucketize(value, thresholds)]


def _channel_errors(points: Tensor, weights: Tensor, offset: Tensor, levels: Tensor) -> Tensor:
    """Weighted squared error of each (candidate, channel): points (P, C) and offset (candidates, C), in levels."""
    value = points[None] - offset[:, None]
    return ((_nearest(value, levels) - value).square() * weights[None, :, None]).sum(dim=1)


def _anchor_offsets(points: Tensor, levels: Tensor) -> Tensor:
    """Offsets to start from (candidates, C): ends, middle, quartiles and median of the samples laid on levels."""
    count = points.shape[0]
    low, high = points[1], points[-2]
    anchors = [low - levels[0], high - levels[-1], (low + high - levels[0] - levels[-1]) / 2]
    anchors += [points[count * place // 4] - levels[4 * place] for place in (1, 2, 3)]
    return torch.stack(anchors)


def _fit_tile(points: Tensor, weights: Tensor, importance: Tensor, family: Tensor) -> tuple[float, Tensor, Tensor]:
    """Scale, offsets (C,) and codebook (16,) of one tile of C channels."""
    widest = float(((points[-3] - points[2]) / 2).max().clamp_min(1e-6))
    best: tuple[float, float, Tensor, Tensor] | None = None
    for levels in family:
        half_range = float(levels[-1] - levels[0]) / 2
        for span in SPAN_CANDIDATES:
            scale = span * widest / half_range
            scaled = points / scale
            offsets = _anchor_offsets(scaled, levels)
            error, choice = _channel_errors(scaled, weights, offsets, levels).min(dim=0)
            total = float((error * importance).sum()) * scale**2
            if best is None or total < best[0]:
                best = (total, scale, offsets.gather(0, choice[None])[0], levels)
    assert best is not None
    _, scale, offset, levels = best
    scaled = points / scale
    for step in (1.0, 0.5, 0.25, 0.125):
        offsets = offset + step * torch.tensor([-1.0, 0.0, 1.0])[:, None]
        choice = _channel_errors(scaled, weights, offsets, levels).argmin(dim=0)
        offset = offsets.gather(0, choice[None])[0]
    return scale, offset, levels


def fit_activation_grid(x: Tensor, importance: Tensor, uniform_only: bool = False) -> ActivationGrid:
    """Choose order, scales, offsets and codebooks for inputs like `x`.

    x: float32 (tokens, K) sample in channel order; importance: float32 (K,), non-negative (for example the
    squared norm of each column of the weight). `uniform_only` leaves out all codebooks but the uniform one.
    """
    x = x[:: max(1, x.shape[0] // SAMPLE_TOKENS)]
    permutation = group_channels(spread(x))
    points, weights = _summarise(x[:, permutation])
    family = torch.from_numpy(codebook_family()).float()
    family = family[:1] if uniform_only else family
    tiles = int(tile_of_position(x.shape[1])[-1]) + 1
    scales, offsets, codebooks = [], [], []
    for tile in range(tiles):
        positions = slice(tile * TILE_CHANNELS, (tile + 1) * TILE_CHANNELS)
        tile_importance = importance[permutation[positions]]
        scale, tile_offset, levels = _fit_tile(points[:, positions], weights, tile_importance, family)
        scales.append(scale)
        offsets.append(tile_offset)
        codebooks.append(levels.to(torch.int8))
    # Offsets are stored in 16 bits, so they are rounded before anything is built on them.
    offset = torch.cat(offsets).half().float()
    return ActivationGrid(permutation, torch.tensor(scales), offset, torch.stack(codebooks))
