"""How large the windows of a chain are, and whether constants come near: windows are lowered for a try."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Final

from sim.compiler.builder import Builder
from sim.compiler.estimate import estimate
from sim.compiler.held_constants import Span, constants_read, copies_bytes, hold_constants
from sim.compiler.memory import RoomError
from sim.compiler.passes import layer_passes
from sim.compiler.region import Region
from sim.compiler.stripes import Rows
from sim.compiler.tiles import Tiles
from sim.compiler.windows import Window
from sim.contract.layer import QuantizedLayer
from sim.machine.commands import Command
from sim.machine.settings import MAP_COLUMNS_MIN

TRIED: Final = 3
"""Sizes that are tried, of those with the fewest bytes in between."""


@dataclass(frozen=True)
class TileChoice:
    """Rows and columns of a window of the result; constants to copy to near memory. cost: cycles of all."""

    rows: int
    columns: int
    constants: Sequence[Span]
    cost: int


def windows_of(height: int, width: int, rows: int, columns: int) -> Iterator[Window]:
    """All windows of a map, along its side with more of them."""
    tops = [Rows(start, min(start + rows, height)) for start in range(0, height, rows)]
    lefts = [Rows(start, min(start + columns, width)) for start in range(0, width, columns)]
    if len(tops) < len(lefts):
        yield from (Window(top, left) for top in tops for left in lefts)
    else:
        yield from (Window(top, left) for left in lefts for top in tops)


@dataclass(frozen=True)
class TileTrial:
    """Lowers windows to see what they cost; nothing of it stays but constants that are kept once anyway.

    result, regions: as of Tiles.lower.
    """

    builder: Builder
    tiles: Tiles
    result: Region
    regions: Mapping[int, Region]

    def choice(self) -> TileChoice | None:
        """The cheapest size, or None where near memory, or the depthwise unit, holds none."""
        read = self._constants()
        if read is None:
            return None
        ways = [
            self._tried(rows, columns, constants)
            for constants in ((), tuple(read))
            for rows, columns in self._sizes(self.builder.near.room - copies_bytes(constants))
        ]
        return min((way for way in ways if way is not None), key=lambda way: way.cost, default=None)

    def _sizes(self, room: int) -> list[tuple[int, int]]:
        """Sizes that fit, those with the fewest bytes in between first."""
        height, width, _ = self.tiles.stages[-1].main.shape
        sizes: dict[tuple[int, int], int] = {}
        for columns in sorted({-(-width // count) for count in range(1, width + 1)}):
            most = bisect_right(range(1, height + 1), room, key=lambda rows: self._bytes(rows, columns))
            if most:
                rows = -(-height // -(-height // most))
                number = -(-height // rows) * -(-width // columns)
                sizes[rows, columns] = number * self._bytes(rows, columns)
        ordered = sorted(sizes, key=lambda size: sizes[size])
        return list(islice((size for size in ordered if self._widths_fit(size[1])), TRIED))

    def _inner(self, rows: int, columns: int) -> Window:
        """A window with neighbours all around, where there is one."""
        height, width, _ = self.tiles.stages[-1].main.shape
        top, left = (size if 2 * size < length else 0 for size, length in ((rows, height), (columns, width)))
        return Window(Rows(top, min(top + rows, height)), Rows(left, min(left + columns, width)))

    def _bytes(self, rows: int, columns: int) -> int:
        return self.tiles.near_bytes(self._inner(rows, columns))

    def _widths_fit(self, columns: int) -> bool:
        """True where the depthwise unit takes all windows of so many columns."""
        width = self.tiles.stages[-1].main.shape[1]
        widths = {
            held.width
            for window in windows_of(1, width, 1, columns)
            for stage, held in zip(self.tiles.stages[1:], self.tiles.windows(window), strict=False)
            if not stage.dense
        }
        return min(widths) >= MAP_COLUMNS_MIN and max(widths) <= self.builder.preset.map_columns

    def _lowered(self, windows: Iterable[Window], constants: Sequence[Span]) -> list[list[Command]] | None:
        """Commands for the copies of constants, and for each window; None where near memory is too small."""
        builder = self.builder
        ends = [len(builder.commands)]
        with builder.trial():
            try:
                hold_constants(builder, constants)
                ends.append(len(builder.commands))
                for window in windows:
                    self.tiles.lower(builder, window, self.result, self.regions)
                    ends.append(len(builder.commands))
            except RoomError:
                return None
            return [builder.commands[start:stop] for start, stop in pairwise(ends)]

    def _constants(self) -> list[Span] | None:
        """What a window reads, by one that leaves room."""
        sizes = self._sizes(self.builder.near.room)
        if not sizes:
            return None
        rows, columns = sizes[0]
        lowered = self._lowered([self._inner(-(-rows // 2), columns)] * 2, ())
        return None if lowered is None else constants_read(lowered[-1], self.builder.beat)

    def _tried(self, rows: int, columns: int, constants: Sequence[Span]) -> TileChoice | None:
        height, width, _ = self.tiles.stages[-1].main.shape
        first = Window(Rows(0, rows), Rows(0, columns))
        lowered = self._lowered((first, self._inner(rows, columns)), constants)
        if lowered is None:
            return None
        copies, one, other = (estimate(commands, self.builder.preset, self._load()) for commands in lowered)
        number = -(-height // rows) * -(-width // columns)
        return TileChoice(rows, columns, constants, copies + one + (number - 1) * other)

    def _load(self) -> int:
        """Cycles of a LOAD of the slowest layer."""
        layers = [stage.main.operation for stage in self.tiles.stages]
        with self.builder.trial():
            return max(layer_passes(self.builder, one).load for one in layers if isinstance(one, QuantizedLayer))
