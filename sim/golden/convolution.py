"""Convolutions on channel-last maps: depthwise 3x3, 3x3 as a linear layer, and 2x2 transposed."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

VALUES_PER_BAND: Final = 1 << 16
"""Outputs of a depthwise convolution handled at once, so that the running sum stays in a core's cache."""


def depthwise_3x3(
    x: NDArray[np.float32], weight: NDArray[np.float32], bias: NDArray[np.float32], stride: int = 1
) -> NDArray[np.float32]:
    """Depthwise 3x3 convolution with one ring of zeros around the map, float32.

    x: (rows, columns, channels). weight: (channels, 1, 3, 3) as PyTorch stores it. bias: (channels,).
    Returns (ceil(rows / stride), ceil(columns / stride), channels).
    """
    rows, columns, channels = x.shape
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    taps = np.ascontiguousarray(weight[:, 0].transpose(1, 2, 0))
    height, width = -(-rows // stride), -(-columns // stride)
    result = np.empty((height, width, channels), np.float32)
    band = max(1, VALUES_PER_BAND // (width * channels))
    product = np.empty((band, width, channels), np.float32)
    for top in range(0, height, band):
        total = result[top : top + band]
        total[:] = bias
        scratch = product[: total.shape[0]]
        for ky in range(3):
            for kx in range(3):
                first = stride * top + ky
                last = first + stride * (total.shape[0] - 1)
                window = padded[first : last + 1 : stride, kx : kx + stride * (width - 1) + 1 : stride]
                total += np.multiply(window, taps[ky, kx], out=scratch)
    return result


def im2col_3x3(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """The 3x3 neighbourhood of every pixel as one token, zeros outside the map.

    x: (rows, columns, channels). Returns (rows, columns, 9 * channels), the last axis in (ky, kx, c) order.
    """
    rows, columns, channels = x.shape
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    patches = np.empty((rows, columns, 3, 3, channels), np.float32)
    for ky in range(3):
        for kx in range(3):
            patches[:, :, ky, kx] = padded[ky : ky + rows, kx : kx + columns]
    return patches.reshape(rows, columns, 9 * channels)


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
