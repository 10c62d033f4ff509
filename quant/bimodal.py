"""Keys with two modes: detect them, and fold the signs of channels so that one mode remains.

In some attentions of SAM's mask decoder the channels of the key gather around plus and minus one value. PTQ4SAM
(CVPR 2024, bimodal integration) multiplies channel c of both query and key by the sign of the key's mean there:
every product q.k is what it was, and the key's values have one mode, which few codes cover better.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

GRID_POINTS = 128
"""Points between the smallest and the largest value at which the density is evaluated."""

PEAK_HEIGHT = 0.01
"""Least height of a peak, as a fraction of the sum of the density over all points."""

PEAK_DISTANCE = 32
"""Least distance of two peaks, in points."""

BINS = 4096
"""Bins of the histogram that stands for the samples; one is far narrower than the kernel."""


@dataclass(frozen=True)
class FoldedProjections:
    """Query and key projections with the signs of channels folded: weights (channels, inputs), biases (channels,), and
    the `signs` (channels,), each +1 or -1, that every row was multiplied by."""

    q_weight: Tensor
    q_bias: Tensor
    k_weight: Tensor
    k_bias: Tensor
    signs: Tensor


def density(values: Tensor) -> Tensor:
    """Gaussian kernel density of `values` (any shape, at least two distinct values) at GRID_POINTS: float64.

    Kernel width by Scott's rule, n^(-1/5) standard deviations. The samples are binned first, so the cost of a kernel
    does not grow with their number.
    """
    samples = values.detach().flatten().double()
    low, high = float(samples.min()), float(samples.max())
    bin_width = (high - low) / BINS
    counts = torch.histc(samples, BINS, low, high)
    centres = low + (torch.arange(BINS, dtype=torch.float64, device=samples.device) + 0.5) * bin_width
    points = torch.linspace(low, high, GRID_POINTS, dtype=torch.float64, device=samples.device)
    # A kernel narrower than a bin would miss the samples between two bin centres.
    width = max(float(samples.std()) * samples.numel() ** -0.2, bin_width)
    kernel = torch.exp(-0.5 * ((points[:, None] - centres) / width).square())
    return kernel @ counts / (samples.numel() * width * (2 * torch.pi) ** 0.5)


def peaks(heights: Tensor) -> list[int]:
    """Indices of the peaks of a density (points,), ascending.

    A peak is a point, or the middle of a run of equal ones, above both neighbours (so never at an end), of at least
    PEAK_HEIGHT of the sum. Of peaks nearer than PEAK_DISTANCE only the higher stays.
    """
    runs, counts = torch.unique_consecutive(heights.cpu(), return_counts=True)
    starts = counts.cumsum(dim=0) - counts
    inner = 1 + torch.nonzero((runs[1:-1] > runs[:-2]) & (runs[1:-1] > runs[2:])).flatten()
    inner = inner[runs[inner] >= PEAK_HEIGHT * heights.cpu().sum()]
    kept: list[int] = []
    for run in inner[runs[inner].argsort(descending=True, stable=True)].tolist():
        middle = int(starts[run]) + (int(counts[run]) - 1) // 2
        if all(abs(middle - other) >= PEAK_DISTANCE for other in kept):
            kept.append(middle)
    return sorted(kept)


def is_bimodal(values: Tensor) -> bool:
    """Whether the density of `values` (any shape, finite) has exactly two peaks. Raises ValueError for no values or
    values that are not finite."""
    if values.numel() == 0 or not torch.isfinite(values).all():
        raise ValueError("a density needs at least one value, all finite")
    if bool((values == values.flatten()[0]).all()):
        return False
    return len(peaks(density(values))) == 2


def mostly_bimodal(keys: Sequence[Tensor]) -> bool:
    """Whether the keys of more than half of the pictures, one tensor each, are bimodal.

    The published code decides from one picture; a single odd one then decides for all. Raises ValueError for no keys.
    """
    if not keys:
        raise ValueError("needs the keys of at least one picture")
    return 2 * sum(is_bimodal(key) for key in keys) > len(keys)


def fold_signs(
    q_weight: Tensor, q_bias: Tensor, k_weight: Tensor, k_bias: Tensor, key_mean: Tensor
) -> FoldedProjections:
    """Multiply each channel of both projections by the sign of the key's mean there; q.k is unchanged.

    q_weight, k_weight: (channels, inputs), inputs may differ; q_bias, k_bias, key_mean: (channels,). key_mean is the
    mean of the key projection's output per channel over tokens and pictures; where it is 0 the sign is +1, since 0
    would erase the channel. The given tensors are not changed. Raises ValueError for shapes that do not fit.
    """
    channels = key_mean.shape
    if key_mean.dim() != 1 or {q_weight.shape[:1], k_weight.shape[:1], q_bias.shape, k_bias.shape} != {channels}:
        raise ValueError("query and key projections and the key's mean must have the same channels")
    signs = torch.where(key_mean < 0, -1.0, 1.0).to(k_weight.dtype)
    return FoldedProjections(
        q_weight * signs[:, None], q_bias * signs, k_weight * signs[:, None], k_bias * signs, signs
    )
