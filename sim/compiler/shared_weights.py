"""Weights that two passes of a block of codes take, one for either plane: read from external memory once.

They come near with the codes of their block, while the array works on the block before, and both passes read them
there. Two rooms take turns.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from sim.compiler.builder import Builder
from sim.compiler.near_constants import merged
from sim.compiler.passes import Pass, Passes
from sim.contract.constants import TILE_CHANNELS
from sim.contract.layer import QuantizedLayer
from sim.machine.presets import MachinePreset


@dataclass(frozen=True)
class SharedUnit:
    """A K tile of a layer whose passes share weights. words: of a token; bytes: of the weights of a column tile."""

    words: int
    bytes: int

    def rooms(self, words: int) -> int:
        """Bytes of both rooms for the weights of blocks of so many words of a token; 0 where they are no K tiles."""
        return 0 if words % self.words else 2 * words // self.words * self.bytes


def shared_unit(layer: QuantizedLayer, preset: MachinePreset) -> SharedUnit | None:
    """None where no weights are those of two passes."""
    if layer.level_planes != 2:
        return None
    blocks = TILE_CHANNELS // preset.rows
    return SharedUnit(layer.encoder.code_planes * blocks, layer.weight_planes * blocks * preset.pass_bytes)


def _distinct(passes: Sequence[Pass]) -> list[int]:
    return sorted({one.weights for one in passes})


@dataclass(frozen=True)
class SharedWeights:
    """Of a layer, in two halves of a room of so many bytes at `address`."""

    builder: Builder
    layer: Passes
    address: int
    size: int

    @classmethod
    def room(cls, builder: Builder, passes: Passes, unit: SharedUnit | None, words: int, spare: int = 0) -> Self | None:
        """Room for those of blocks of so many words; None where there is none beside `spare` bytes of near memory."""
        size = 0 if unit is None else unit.rooms(words)
        return cls(builder, passes, builder.near.take(size), size) if 0 < size <= builder.near.room - spare else None

    def bring(self, passes: Sequence[Pass], tile: int, half: int, part: tuple[int, int, int]) -> None:
        """The weights of a block's passes on a column tile, of which part[0]..part[1] of part[2] equal shares."""
        distinct, size = _distinct(passes), self.builder.preset.pass_bytes
        first, stop, shares = part
        numbers = range(first * len(distinct) // shares, stop * len(distinct) // shares)
        place = self._half(half) + numbers.start * size
        for start, length in merged((distinct[number], size) for number in numbers):
            self.builder.copy(start + tile * self.layer.weight_pitch, place, length)
            place += length

    def moved(self, one: Pass, passes: Sequence[Pass], tile: int, half: int) -> Pass:
        """A pass of this block with its weights there."""
        place = self._half(half) + _distinct(passes).index(one.weights) * self.builder.preset.pass_bytes
        return replace(one, weights=place - tile * self.layer.weight_pitch)

    def _half(self, half: int) -> int:
        return self.address + half * self.size // 2
