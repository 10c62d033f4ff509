"""Parts of a map in rows and columns: which part of an input a part of a result needs, and where a part lies."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.compiler.region import Region
from sim.compiler.stripes import Rows, convolved
from sim.compiler.trace import ZERO, Node
from sim.contract.depthwise import Depthwise


@dataclass(frozen=True)
class Window:
    """Rows and columns of a map, both with a stop behind the last."""

    rows: Rows
    columns: Rows

    @property
    def height(self) -> int:
        """Rows."""
        return self.rows.stop - self.rows.start

    @property
    def width(self) -> int:
        """Columns."""
        return self.columns.stop - self.columns.start

    @property
    def pixels(self) -> int:
        """Of the window."""
        return self.height * self.width

    def corner(self, columns: int) -> int:
        """Number of its first pixel in a map of so many columns."""
        return self.rows.start * columns + self.columns.start

    def tokens(self, columns: int) -> NDArray[np.int64]:
        """Numbers of its pixels in a map of so many columns, row by row."""
        rows = np.arange(self.rows.start, self.rows.stop)
        return (rows[:, None] * columns + np.arange(self.columns.start, self.columns.stop)).reshape(-1)


@dataclass(frozen=True, kw_only=True)
class WindowRegion(Region):
    """A region that holds a window of a map alone, pixel by pixel, row by row. columns: of the whole map."""

    window: Window
    columns: int

    def at(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Addresses of the first beats of pixels by their numbers in the whole map."""
        row, column = np.divmod(tokens, self.columns)
        place = (row - self.window.rows.start) * self.window.width + column - self.window.columns.start
        return self.address + place * self.pitch


def source_window(node: Node, wanted: Window, source: Node, lanes: int) -> Window:
    """What the wanted window of a result needs of the result of `source`, its first input. lanes: values of a beat."""
    height, width, channels = source.shape
    if isinstance(node.operation, Depthwise):
        stride = node.operation.stride
        return Window(convolved(wanted.rows, stride, height), convolved(wanted.columns, stride, width))
    view = node.inputs[0]
    if view.beats is None:
        return wanted
    beats = view.beats[wanted.tokens(node.shape[1])]
    rows, columns = np.divmod(beats[beats != ZERO] // -(-channels // lanes), width)
    return Window(Rows(int(rows.min()), int(rows.max()) + 1), Rows(int(columns.min()), int(columns.max()) + 1))
