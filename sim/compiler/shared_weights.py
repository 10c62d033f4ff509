"""Weights that two passes of a block of codes take, one for either plane: read from external memory once.

They come near with the codes of their block, while the array works on the block before, and both passes read them
there. Two rooms take turns.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sim.compiler.builder import Builder
from sim.compiler.near_constants import merged
from sim.compiler.passes import Pass, Passes
from sim.contract.constants import TILE_CHANNELS
from sim.contract.layer import QuantizedLayer
from sim.machine.presets import MachinePreset


def shared_unit(layer: QuantizedLayer, preset: MachinePreset) -> int:
    """Words of a K tile of a token, 0 where no weights are those of two passes."""
    return layer.encoder.code_planes * TILE_CHANNELS // preset.rows if layer.level_planes == 2 else 0


def shared_bytes(layer: QuantizedLayer, words: int, preset: MachinePreset) -> int:
    """Of both rooms for the weights of blocks of so many words of a token; 0 where passes share none."""
    unit = shared_unit(layer, preset)
    if not unit or words % unit:
        return 0
    return 2 * words // unit * layer.weight_planes * (TILE_CHANNELS // preset.rows) * preset.pass_bytes


def _distinct(passes: Sequence[Pass]) -> list[int]:
    return sorted({one.weights for one in passes})


@dataclass(frozen=True)
class SharedWeights:
    """Of a layer, in two halves of a room of so many bytes at `address`."""

    builder: Builder
    layer: Passes
    address: int
    size: int

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
