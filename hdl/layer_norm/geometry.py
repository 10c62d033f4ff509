"""Sizes of a LayerNorm unit, checked once."""

from dataclasses import dataclass
from typing import Final

from hdl.parameters import require

LANES: Final = (1, 2, 4)
"""Channels per cycle."""

DEPTH_MIN: Final = 16
DEPTH_MAX: Final = 4096
"""Channels of a token: the contract's limit."""

BUFFERS_MIN: Final = 2
BUFFERS_MAX: Final = 4
"""Tokens held at once: with two, one is read while the next is written."""


@dataclass(frozen=True)
class LayerNormGeometry:
    """A unit for tokens of up to `depth` channels, `lanes` of them per cycle.

    lanes: 1, 2 or 4. depth: 16..4096. buffers: tokens in the token memory, 2..4. permuted: 1 for results in any
    order of the channels, 0 for the order of the input. Lanes cost multipliers and adders; permuted lanes cost a
    copy of the token memory each, as any lane may want any channel.

    A token is `groups(channels)` transfers of `lanes` channels; channel c is on lane c % lanes of transfer
    c // lanes, and likewise for positions of the result.

    Raises ValueError naming the parameter, its limit and the nearest valid value.
    """

    lanes: int = 1
    depth: int = 768
    buffers: int = 2
    permuted: int = 1

    def __post_init__(self) -> None:
        require("lanes", self.lanes, LANES, f"one of {LANES}")
        require("depth", self.depth, range(DEPTH_MIN, DEPTH_MAX + 1), f"in {DEPTH_MIN}..{DEPTH_MAX}")
        require("buffers", self.buffers, range(BUFFERS_MIN, BUFFERS_MAX + 1), f"in {BUFFERS_MIN}..{BUFFERS_MAX}")
        require("permuted", self.permuted, (0, 1), "0 or 1")

    def groups(self, channels: int) -> int:
        """Transfers of a token of `channels` channels."""
        return -(-channels // self.lanes)

    @property
    def lane_bits(self) -> int:
        """Bits of a channel number that tell the lane, its lowest."""
        return self.lanes.bit_length() - 1

    @property
    def group_bits(self) -> int:
        """Bits of a channel number that tell the transfer."""
        return (self.groups(self.depth) - 1).bit_length()

    @property
    def channel_bits(self) -> int:
        """Bits of a channel number."""
        return self.group_bits + self.lane_bits

    @property
    def token_words(self) -> int:
        """Words of `lanes` channels in the token memory; a buffer starts at a multiple of 2**group_bits."""
        return ((self.buffers - 1) << self.group_bits) + self.groups(self.depth)
