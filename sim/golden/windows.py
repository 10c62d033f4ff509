"""The windows that window attention cuts a map into: values move, none changes."""

import math
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Value = TypeVar("Value", bound=np.generic)


def partition_windows(x: NDArray[Value], window: int) -> NDArray[Value]:
    """Square windows of a map, row by row: (rows, columns, C) to (windows, window * window, C).

    The map is first padded with zeros at the bottom and the right to a multiple of `window`.
    """
    rows, columns, channels = x.shape
    down, across = -(-rows // window), -(-columns // window)
    padded = np.zeros((down * window, across * window, channels), x.dtype)
    padded[:rows, :columns] = x
    grid = padded.reshape(down, window, across, window, channels)
    return grid.transpose(0, 2, 1, 3, 4).reshape(down * across, window * window, channels)


def join_windows(windows: NDArray[Value], rows: int, columns: int) -> NDArray[Value]:
    """Inverse of `partition_windows`: (windows, window * window, C) to (rows, columns, C), padding cut off."""
    window = math.isqrt(windows.shape[1])
    channels = windows.shape[2]
    down, across = -(-rows // window), -(-columns // window)
    grid = windows.reshape(down, across, window, window, channels).transpose(0, 2, 1, 3, 4)
    return np.ascontiguousarray(grid.reshape(down * window, across * window, channels)[:rows, :columns])
