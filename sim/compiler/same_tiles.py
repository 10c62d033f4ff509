"""Windows that differ in their place alone are lowered once: the others have the same commands at other addresses."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from sim.compiler.builder import Builder
from sim.compiler.region import Region
from sim.compiler.tiles import Tiles
from sim.compiler.windows import Window
from sim.machine.commands import Command, Opcode

Shift = tuple[int, int, int]
"""First address of a tensor, the first behind it, and what to add to addresses of it."""


@dataclass
class SameTiles:
    """Lowers windows of a chain one after another. result, regions: as of Tiles.lower."""

    builder: Builder
    tiles: Tiles
    result: Region
    regions: Mapping[int, Region]
    _made: dict[tuple[tuple[int, ...], ...], tuple[Window, list[Command]]] = field(default_factory=dict)
    _begun: bool = False

    def lower(self, wanted: Window) -> None:
        """One window, as Tiles.lower."""
        shape = self.tiles.shape(wanted)
        if shape in self._made:
            other, commands = self._made[shape]
            self.builder.commands += self._moved(commands, self._shifts(other, wanted))
            return
        begin = len(self.builder.commands)
        self.tiles.lower(self.builder, wanted, self.result, self.regions)
        # The first window alone finds the units without their tables.
        if self._begun and self.tiles.stages[0].first.inputs[0].beats is None:
            self._made[shape] = wanted, self.builder.commands[begin:]
        self._begun = True

    def _shifts(self, there: Window, here: Window) -> list[Shift]:
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

    @staticmethod
    def _moved(commands: list[Command], shifts: list[Shift]) -> list[Command]:
        def moved(command: Command) -> Command:
            if command.opcode in (Opcode.READ, Opcode.WRITE):
                for first, stop, shift in shifts:
                    if first <= command.address < stop:
                        return replace(command, address=command.address + shift)
            return command

        return [moved(command) for command in commands]
