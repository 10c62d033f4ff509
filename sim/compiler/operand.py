"""K and V of an attention as codes in memory, in the order in which the array loads them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.compiler.builder import Builder
from sim.compiler.encode import HALF_TILE, Codes, encode, plan_operand
from sim.contract.constants import TILE_CHANNELS
from sim.contract.encoder import Encoder
from sim.machine.ports import Port
from sim.machine.presets import CODE_BYTES


@dataclass(frozen=True)
class Operand:
    """K or V in memory. codes of groups of HALF_TILE / unit tokens; window: bytes from a window to the next."""

    codes: Codes
    unit: int
    window: int

    @property
    def group(self) -> int:
        """Tokens whose codes lie in one group."""
        return HALF_TILE // self.unit

    def half(self, channel: int, plane: int) -> int:
        """Bytes from a group's first to the nibbles of the `unit` channels from `channel` on."""
        tile, half = divmod(channel // self.unit, TILE_CHANNELS // HALF_TILE)
        return self.codes.plane(tile, plane) + half * CODE_BYTES // 2

    def of_channels(self, channels: range) -> tuple[int, int]:
        """Bytes from a group's first to the K tiles that hold these channels, and of all of them."""
        first, last = (
            channel // self.unit // (TILE_CHANNELS // HALF_TILE) for channel in (channels.start, channels.stop - 1)
        )
        start, stop = self.codes.plane(first, 0), self.codes.plane(last + 1, 0)
        return start, stop - start


def write_operand(
    builder: Builder, encoder: Encoder, values: NDArray[np.int64], planes: int, *, unit: int, kept: int, reached: int
) -> Operand:
    """Codes of k or v, whose beats have addresses (windows, tokens, beats).

    kept: tokens of a window that have a place; those that are not there become zeros where `kept` counts more tokens
    than there are. reached: tokens that are read from a window's first on.
    """
    windows, tokens, _ = values.shape
    group = HALF_TILE // unit
    plan = plan_operand(encoder, planes, unit, group, builder.preset.lanes)
    groups = -(-kept // group)
    window = groups * plan.pitch
    room = windows * window + max(0, -(-reached // group) - groups) * plan.pitch
    address = builder.take_near_first(room)
    full, rest = divmod(tokens, group)
    beats = plan.pitch // builder.beat

    def some(first: int, count: int, present: int) -> None:
        token = np.minimum(np.arange(first * group, (first + count) * group), tokens - 1)
        encode(
            builder,
            plan_operand(encoder, planes, unit, present, builder.preset.lanes),
            values[:, token].reshape(windows * count, -1),
            address + first * plan.pitch,
            (beats * count, builder.beat),
            (windows, window),
        )
        builder.wait()

    if full:
        some(0, full, group)
    if rest:
        some(full, 1, rest if kept > tokens else group)
    empty = groups - full - (rest > 0)
    if empty:
        place = address + (full + (rest > 0)) * plan.pitch
        builder.write_loops(Port.COPIED, place, (beats * empty, builder.beat), (windows, window))
        builder.read_loops(Port.COPY, builder.zeros, (1, builder.beat), (beats * empty, 0), (windows, 0))
    return Operand(Codes(address, plan.pitch, planes), unit, window)
