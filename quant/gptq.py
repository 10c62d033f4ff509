"""Error-compensating rounding of a weight matrix to few bits with one scale per (K tile, output), or per output.

Everything here sees the calibration data only through second moments of the layer's quantized inputs:
`covariance` C (K, K) = mean of centred inputs, outer product with themselves. The squared error of outputs is
then tr(E C E^T) with E the difference of weights, plus a mean that the bias absorbs exactly.

1. `compensated_target`: the real weights W* that, fed with quantized inputs, best give the float outputs
   (ridge regression towards W): undoes what it can of the errors made before this layer.
2. `round_columns`: GPTQ (Frantar et al., 2022, algorithm 1): round column by column, moving each column's
   error onto the columns that are still free; scales are chosen when a tile begins.
3. `polish`: alternate least-squares scales and cyclic coordinate descent over the rounded integers.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sim.contract.constants import TILE_CHANNELS
from sim.contract.layer import weight_limits

CLIP_CANDIDATES = tuple(0.40 + 0.03 * step for step in range(24))
"""Weight scales that are tried, in units of the one that just holds the largest weight of the tile."""


@dataclass(frozen=True)
class RoundedWeight:
    """integers: float32 (N, K) whole numbers of `bits` bits; scale: float32 (groups, N), positive, each for `group`
    inputs."""

    integers: Tensor
    scale: Tensor
    bits: int = 4
    group: int = TILE_CHANNELS

    def dequantized(self) -> Tensor:
        """The real weights (N, K)."""
        return self.integers * expand_scale(self.scale, self.integers.shape[1], self.group)

    def per_tile(self) -> "RoundedWeight":
        """The same weights with one scale per K tile, as the hardware stores them."""
        if self.group == TILE_CHANNELS:
            return self
        tiles = -(-self.integers.shape[1] // TILE_CHANNELS)
        return RoundedWeight(self.integers, self.scale.expand(tiles, -1).contiguous(), self.bits)


def expand_scale(scale: Tensor, inputs: int, group: int = TILE_CHANNELS) -> Tensor:
    """Scales (groups, N) as one per weight (N, inputs)."""
    return scale.T.repeat_interleave(group, dim=1)[:, :inputs]


def _groups(inputs: int, group: int) -> list[slice]:
    return [slice(start, min(start + group, inputs)) for start in range(0, inputs, group)]


def _round(weight: Tensor, scale: Tensor, bits: int) -> Tensor:
    return (weight / scale).round().clamp(*weight_limits(bits))


def damped(covariance: Tensor, damping: float) -> Tensor:
    """C plus `damping` times its mean diagonal on the diagonal; float64."""
    dense = covariance.double()
    return dense + torch.eye(dense.shape[0], dtype=torch.float64) * (damping * dense.diagonal().mean().clamp_min(1e-12))


def search_scale(weight: Tensor, importance: Tensor, bits: int) -> Tensor:
    """Scale (N,) of one tile, minimising the error of each row of `weight` (N, C) weighted by `importance` (C,)."""
    low, high = weight_limits(bits)
    largest = torch.maximum(weight.amax(dim=1) / high, weight.amin(dim=1) / low).clamp_min(1e-8)
    best_scale, best_error = largest, torch.full_like(largest, torch.inf)
    for clip in CLIP_CANDIDATES:
        scale = largest * clip
        error = (weight - scale[:, None] * _round(weight, scale[:, None], bits)).square() @ importance
        better = error < best_error
        best_scale, best_error = torch.where(better, scale, best_scale), torch.where(better, error, best_error)
    return best_scale


def round_nearest(weight: Tensor, importance: Tensor, bits: int = 4, group: int = TILE_CHANNELS) -> RoundedWeight:
    """Every weight to its nearest integer; the baseline that the other methods must beat."""
    inputs = weight.shape[1]
    scale = torch.stack([search_scale(weight[:, part], importance[part], bits) for part in _groups(inputs, group)])
    return RoundedWeight(_round(weight, expand_scale(scale, inputs, group), bits), scale, bits, group)


def compensated_target(weight: Tensor, covariance: Tensor, missing: Tensor, ridge: float) -> Tensor:
    """W* = W + M (C + ridge)^-1, with M (N, K) = mean of (wanted output - W times quantized input), centred, times
    the quantized input."""
    factor = torch.linalg.cholesky(damped(covariance, ridge))
    return weight + torch.cholesky_solve(missing.double().T, factor).T.float()


def round_columns(
    target: Tensor, covariance: Tensor, damping: float, bits: int = 4, group: int = TILE_CHANNELS
) -> RoundedWeight:
    """GPTQ: columns in order, each group's scales searched on the weights as compensated so far."""
    factor = torch.linalg.cholesky(damped(covariance, damping))
    upper = torch.linalg.cholesky(torch.cholesky_inverse(factor), upper=True).float()
    importance = covariance.diagonal().float()
    weight, integers = target.clone(), torch.empty_like(target)
    scales = []
    blocks = {part.start: part for part in _groups(weight.shape[1], group)}
    for tile in _groups(weight.shape[1], TILE_CHANNELS):
        if tile.start in blocks:
            part = blocks[tile.start]
            scale = search_scale(weight[:, part], importance[part], bits)
            scales.append(scale)
        errors = torch.empty(weight.shape[0], tile.stop - tile.start)
        for column in range(tile.start, tile.stop):
            integers[:, column] = _round(weight[:, column], scale, bits)
            error = (weight[:, column] - scale * integers[:, column]) / upper[column, column]
            weight[:, column : tile.stop] -= error[:, None] * upper[column, column : tile.stop]
            errors[:, column - tile.start] = error
        weight[:, tile.stop :] -= errors @ upper[tile, tile.stop :]
    return RoundedWeight(integers, torch.stack(scales), bits, group)


def output_error(target: Tensor, rounded: RoundedWeight, covariance: Tensor) -> float:
    """Mean squared error of the outputs over outputs and tokens: tr(E C E^T) / N."""
    difference = (target - rounded.dequantized()).double()
    return float(((difference @ covariance.double()) * difference).sum() / target.shape[0])


def refit_scale(target: Tensor, rounded: RoundedWeight, covariance: Tensor) -> Tensor:
    """Scales (tiles, N) that minimise the output error for the given integers: one small normal equation per output.

    Where the optimum is not positive (a tile that contributes nothing), the old scale stays.
    """
    tiles = _groups(target.shape[1], rounded.group)
    integers = rounded.integers
    normal = torch.zeros(integers.shape[0], len(tiles), len(tiles))
    wanted = torch.zeros(integers.shape[0], len(tiles))
    reached = target @ covariance
    for row, tile in enumerate(tiles):
        response = integers[:, tile] @ covariance[tile]
        wanted[:, row] = (integers[:, tile] * reached[:, tile]).sum(dim=1)
        for column, other in enumerate(tiles):
            normal[:, row, column] = (response[:, other] * integers[:, other]).sum(dim=1)
    ridge = normal.diagonal(dim1=1, dim2=2).mean(dim=1).clamp_min(1e-12) * 1e-4
    scale = rounded.scale.T
    normal = normal + torch.diag_embed(ridge[:, None].expand(-1, len(tiles)))
    solved = torch.linalg.solve(normal.double(), (wanted + ridge[:, None] * scale).double()).float()
    return torch.where((solved > 0.3 * scale) & (solved < 3 * scale), solved, scale).T.contiguous()


def descend(target: Tensor, rounded: RoundedWeight, covariance: Tensor) -> Tensor:
    """One sweep of coordinate descent: each integer in turn to its best value given all others. Returns integers."""
    scale = expand_scale(rounded.scale, target.shape[1], rounded.group)
    low, high = weight_limits(rounded.bits)
    integers = rounded.integers.clone()
    gradient = (target - integers * scale) @ covariance
    curvature = covariance.diagonal()
    for column in range(target.shape[1]):
        step = scale[:, column]
        wanted = integers[:, column] + gradient[:, column] / (curvature[column] * step)
        best = wanted.round().clamp(low, high)
        change = (best - integers[:, column]) * step
        gradient -= change[:, None] * covariance[column]
        integers[:, column] = best
    return integers


def polish(target: Tensor, rounded: RoundedWeight, covariance: Tensor, damping: float, sweeps: int) -> RoundedWeight:
    """`sweeps` rounds of `refit_scale` and `descend`; the damped error never rises."""
    dense = damped(covariance, damping).float()
    for _ in range(sweeps):
        scale = refit_scale(target, rounded, dense)
        candidate = replace(rounded, scale=scale)
        rounded = replace(candidate, integers=descend(target, candidate, dense))
    return rounded
