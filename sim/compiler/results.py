"""Where results go: tokens one after another, or row by row into a part of a map."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from sim.compiler.loops import Loop
from sim.machine.ports import Port


@dataclass(frozen=True)
class Results:
    """Tokens from the first on: its address, pitch of a token. port: RESULTS, or the output at the end of a route.

    columns, row_pitch: tokens of a row, and bytes from a row to the next; 0 where all follow each other. first: number
    of the token that is counted as 0.
    """

    address: int
    pitch: int
    port: Port = Port.RESULTS
    columns: int = 0
    row_pitch: int = 0
    first: int = 0

    def behind(self, count: int) -> "Results":
        """The same without its first `count` tokens."""
        return replace(self, first=self.first + count)

    def spans(self, start: int, count: int) -> Iterator[tuple[int, tuple[Loop, ...]]]:
        """Address and loops (count, pitch), the innermost first, of `count` tokens from `start` on."""
        start += self.first
        if not self.columns or self.row_pitch == self.columns * self.pitch:
            yield self.address + start * self.pitch, ((count, self.pitch),)
            return
        stop = start + count
        while start < stop:
            row, column = divmod(start, self.columns)
            address = self.address + row * self.row_pitch + column * self.pitch
            rows = (stop - start) // self.columns
            if column or not rows:
                size = min(self.columns - column, stop - start)
                yield address, ((size, self.pitch),)
            else:
                size = rows * self.columns
                yield address, ((self.columns, self.pitch), (rows, self.row_pitch))
            start += size
