"""K of a head as its sets read it: in near memory, for as long as one set after the other goes through it.

The buffers of logits and codes hold few rows of many keys, so global attention reads all of K for every few queries,
and once for each nibble plane of q. What does not fit near memory is read from where it is.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sim.compiler.builder import Builder
from sim.compiler.encode import Codes
from sim.compiler.operand import Operand

LEFT_SHARE = 32
"""One in so many bytes of near memory is left to constants: a command of scores reads a few of them again and again."""


@dataclass(frozen=True)
class HeadKeys:
    """K of the head with these channels: column tiles below `held_tiles` in `held`, all of them in `whole`."""

    builder: Builder
    channels: range
    whole: Operand
    held: Operand
    held_tiles: int

    def turned(self, window: int, tile: int, block: int, plane: int) -> NDArray[np.int64]:
        """Addresses of the beats of K^T: a column tile of keys, a row block of channels; other heads are zeros."""
        preset, k = self.builder.preset, self.held if tile < self.held_tiles else self.whole
        group = np.arange(tile * preset.columns // k.group, (tile + 1) * preset.columns // k.group)
        columns = k.codes.address + window * k.window + group * k.codes.pitch
        parts = []
        for load in range(preset.rows // preset.loader_rows):
            channel = block * preset.rows + load * preset.loader_rows
            units = [
                columns + k.half(one, plane) if one in self.channels else np.full_like(columns, self.builder.zeros)
                for one in range(channel, channel + preset.loader_rows, k.unit)
            ]
            parts.append(np.stack(units, axis=1).reshape(-1))
        return np.concatenate(parts)


@contextmanager
def head_keys(builder: Builder, k: Operand, channels: range, tiles: int, *, again: bool) -> Iterator[HeadKeys]:
    """K of a head, as many of `tiles` column tiles near as there is room for, where it is of one window that sets read
    `again`. Given back behind a WAIT."""
    offset, size = k.of_channels(channels)
    groups = builder.preset.columns // k.group
    held = 0
    if again and k.codes.address not in builder.near:
        room = builder.near.room - builder.preset.near_bytes // LEFT_SHARE
        held = min(tiles, max(0, room // (groups * size)))
    if not held:
        yield HeadKeys(builder, channels, k, k, 0)
        return
    group = np.arange(held * groups)[:, None] * k.codes.pitch
    place = builder.bring(k.codes.address + offset + group + np.arange(0, size, builder.beat))
    near = replace(k, codes=Codes(place - offset, size, k.codes.planes))
    yield HeadKeys(builder, channels, k, near, held)
    builder.wait()
    builder.near.free(place)
