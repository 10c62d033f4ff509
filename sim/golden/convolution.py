"""Convolutions on channel-last maps as dense layers: 3x3, patches that do not overlap, and 2x2 transposed."""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Value = TypeVar("Value", bound=np.generic)


def im2col_3x3(x: NDArray[Value]) -> NDArray[Value]:
    """The 3x3 neighbourhood of every pixel as one token, zeros outside the map.

    x: (rows, columns, channels). Returns (rows, columns, 9 * channels), the last axis in (ky, kx, c) order.
    """
    rows, columns, channels = x.shape
    padded = np.zeros((rows + 2, columns + 2, channels), x.dtype)
    padded[1:-1, 1:-1] = x
    neighbourhoods = np.empty((rows, columns, 3, 3, channels), x.dtype)
    for ky in range(3):
        for kx in range(3):
            neighbourhoods[:, :, ky, kx] = padded[ky : ky + rows, kx : kx + columns]
    return neighbourhoods.reshape(rows, columns, 9 * channels)


def patches(x: NDArray[Value], side: int) -> NDArray[Value]:
    """Squares of side x side pixels, each as one token.

    x: (rows, columns, channels), both multiples of `side`. Returns (rows / side, columns / side,
    side * side * channels), the last axis in (ky, kx, c) order.
    """
    rows, columns, channels = x.shape
    grid = x.reshape(rows // side, side, columns // side, side, channels)
    return grid.transpose(0, 2, 1, 3, 4).reshape(rows // side, columns // side, side * side * channels)


def transposed_2x2(
    x: NDArray[np.float32], weight: NDArray[np.float32], bias: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Transposed convolution with a 2x2 kernel and stride 2 (kernels do not overlap), float32.

    x: (rows, columns, inputs). weight: (inputs, outputs, 2, 2) as PyTorch stores it. bias: (outputs,).
    Returns (2 * rows, 2 * columns, outputs).
    """
    rows, columns, inputs = x.shape
    outputs = weight.shape[1]
    kernel = weight.transpose(0, 2, 3, 1).reshape(inputs, 4 * outputs)
    pixels = (x.reshape(rows * columns, inputs) @ kernel).reshape(rows, columns, 2, 2, outputs)
    return pixels.transpose(0, 2, 1, 3, 4).reshape(2 * rows, 2 * columns, outputs) + bias
