"""8-bit inputs of a quantized layer: two planes of 4-bit codes, for layers where 16 levels are too few.

A position p of tile t with level a in -128..127 stands for scale[t] * (a + offset[p]).
"""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from quant.channel_groups import group_channels, spread, tile_of_position
from sim.contract.constants import TILE_CHANNELS

HEADROOM: Final = 1.1
"""Range of the 256 levels over the range of the widest channel of the tile in calibration."""


@dataclass(frozen=True)
class ByteGrid:
    """How inputs become 8-bit levels. permutation: int64 (K,); scale: float32 (tiles,), one level; offset: float32
    (K,) in levels, permuted order."""

    permutation: Tensor
    scale: Tensor
    offset: Tensor

    def quantize(self, x: Tensor) -> Tensor:
        """What the levels of `x` stand for: float32 (tokens, K) in channel order to the same shape, permuted."""
        scale = self.scale[tile_of_position(self.offset.numel())]
        level = x[:, self.permutation].div_(scale).sub_(self.offset).sub_(0.5).ceil_().clamp_(-128, 127)
        return level.add_(self.offset).mul_(scale)


def fit_byte_grid(x: Tensor) -> ByteGrid:
    """Order, scales and offsets for inputs like `x`, a sample float32 (tokens, K) in channel order.

    Levels cover the sample's range of every channel, with HEADROOM: clipping costs more than coarser steps here.
    """
    permutation = group_channels(spread(x))
    low, high = x[:, permutation].amin(dim=0), x[:, permutation].amax(dim=0)
    width = torch.stack([part.max() for part in (high - low).split(TILE_CHANNELS)])
    scale = (HEADROOM * width / 255).clamp_min(1e-8)
    # Offsets are stored in 16 bits, so they are chosen there.
    offset = ((low + high) / 2 / scale[tile_of_position(x.shape[1])] + 0.5).half().float()
    return ByteGrid(permutation, scale, offset)
