"""Windows that differ in their place alone are lowered once: the others have the same commands at other addresses."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise, takewhile

from sim.compiler.builder import Builder
from sim.compiler.region import Region
from sim.compiler.rounds import Body, repeated, roll
from sim.compiler.tiles import Tiles
from sim.compiler.windows import Window
from sim.machine.commands import Command, Opcode

Shift = tuple[int, int, int]
"""First address of a tensor, the first behind it, and what to add to addresses of it."""


@dataclass
class SameTiles:
    """Lowers all windows of a chain. result, regions: as of Tiles.lower."""

    builder: Builder
    tiles: Tiles
    result: Region
    regions: Mapping[int, Region]
    _made: dict[tuple[tuple[int, ...], ...], tuple[Window, list[Command]]] = field(default_factory=dict)
    _begun: bool = False

    def lower(self, windows: Iterable[Window]) -> None:
        """All windows. What repeats is rolled up already: nested rounds are impossible, so windows in a row become
        rounds where that takes fewer commands than rounds within each of them."""
        made = [(window, self._commands(window)) for window in windows]
        at = 0
        while at < len(made):
            # The first window has commands of its own.
            stop = at + 1 if at == 0 else at + self._even([window for window, _ in made[at:]])
            self._rolled([one for _, commands in made[at:stop] for one in commands], stop - at)
            at = stop

    def _even(self, windows: Sequence[Window]) -> int:
        """How many of the first have one shape and one distance."""
        shape = self.tiles.shape(windows[0])
        alike = list(takewhile(lambda window: self.tiles.shape(window) == shape, windows))
        distances = [[shift for _, _, shift in self._shifts(*pair)] for pair in pairwise(alike)]
        return 1 + sum(1 for _ in takewhile(lambda distance: distance == distances[0], distances))

    def _rolled(self, commands: list[Command], rounds: int) -> None:
        builder = self.builder
        start, length = len(builder.commands), len(commands) // rounds
        within = roll(commands, start)
        if rounds > 1 and length + 1 < len(within):
            within = repeated(commands, start, [Body(0, length, rounds)])
        builder.commands += within

    def _commands(self, wanted: Window) -> list[Command]:
        """Of one window."""
        shape = self.tiles.shape(wanted)
        if shape in self._made:
            other, commands = self._made[shape]
            return self._moved(commands, self._shifts(other, wanted))
        begin = len(self.builder.commands)
        self.tiles.lower(self.builder, wanted, self.result, self.regions)
        commands = self.builder.commands[begin:]
        del self.builder.commands[begin:]
        # The first window alone finds the units without their tables.
        if self._begun and self.tiles.stages[0].first.inputs[0].beats is None:
            self._made[shape] = wanted, commands
        self._begun = True
        return commands

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
