"""Windows of a chain on a map as parts of a step."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

from sim.compiler.builder import Builder
from sim.compiler.region import Region
from sim.compiler.same_parts import Shift
from sim.compiler.tiles import Tiles
from sim.compiler.windows import Window


@dataclass(frozen=True)
class TileParts:
    """result, regions: as of Tiles.lower."""

    builder: Builder
    tiles: Tiles
    result: Region
    regions: Mapping[int, Region]

    def lower(self, part: Window) -> None:
        """All of the chain for a window."""
        self.tiles.lower(self.builder, part, self.result, self.regions)

    def shape(self, part: Window) -> Hashable:
        """Of no two windows the same where the chain's input is gathered from all over the map."""
        gathered = self.tiles.stages[0].first.inputs[0].beats is not None
        return self.tiles.shape(part), part if gathered else None

    def shifts(self, there: Window, here: Window) -> list[Shift]:
        """Of the tensor that the chain reads, and of its result."""
        view, last = self.tiles.stages[0].first.inputs[0], self.tiles.stages[-1].main
        read, before = (self.tiles.windows(window)[0] for window in (here, there))
        moves = (
            (self.regions[view.source], view.tokens, read.corner(view.shape[1]) - before.corner(view.shape[1])),
            (self.result, last.tokens, here.corner(last.shape[1]) - there.corner(last.shape[1])),
        )
        return [
            (region.address, region.address + tokens * region.pitch, pixels * region.pitch)
            for region, tokens, pixels in moves
        ]
