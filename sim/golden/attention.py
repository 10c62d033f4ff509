"""Softmax attention, and the windows TinyViT cuts a map into."""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

MULTIPLIES_PER_PRODUCT: Final = 1 << 18
"""Largest matrix product of one head that is handed to BLAS. OpenBLAS spreads larger ones over threads, and for
thousands of such small products waiting for the threads of a busy machine costs a hundred times the arithmetic."""


def softmax(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Softmax over the last axis, float32."""
    result = np.exp(x - x.max(axis=-1, keepdims=True))
    result /= result.sum(axis=-1, keepdims=True)
    return result


def scaled_attention(
    q: NDArray[np.float32],
    k: NDArray[np.float32],
    v: NDArray[np.float32],
    bias: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """softmax(q k^T / sqrt(d) + bias) v, float32 (Vaswani et al., Attention Is All You Need, equation 1).

    q: (..., queries, d). k: (..., keys, d). v: (..., keys, e). bias: (..., queries, keys), leading axes
    broadcast. Returns (..., queries, e).
    """
    queries, keys, depth = q.shape[-2], k.shape[-2], max(q.shape[-1], v.shape[-1])
    rows = max(1, MULTIPLIES_PER_PRODUCT // (keys * depth))
    scale = np.float32(1 / math.sqrt(q.shape[-1]))
    transposed = np.swapaxes(k, -1, -2)
    result = np.empty((*q.shape[:-1], v.shape[-1]), np.float32)
    for start in range(0, queries, rows):
        block = slice(start, start + rows)
        logits = q[..., block, :] @ transposed
        logits *= scale
        if bias is not None:
            logits += bias[..., block, :]
        np.matmul(softmax(logits), v, out=result[..., block, :])
    return result


def split_heads(x: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """(..., tokens, heads * d) to (..., heads, tokens, d)."""
    *batch, tokens, channels = x.shape
    return np.swapaxes(x.reshape(*batch, tokens, heads, channels // heads), -2, -3)


def merge_heads(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """(..., heads, tokens, d) to (..., tokens, heads * d)."""
    *batch, heads, tokens, width = x.shape
    return np.swapaxes(x, -2, -3).reshape(*batch, tokens, heads * width)


def partition_windows(x: NDArray[np.float32], window: int) -> NDArray[np.float32]:
    """Square windows of a map, row by row: (rows, columns, C) to (windows, window * window, C).

    The map is first padded with zeros at the bottom and the right to a multiple of `window`.
    """
    rows, columns, channels = x.shape
    down, across = -(-rows // window), -(-columns // window)
    x = np.pad(x, ((0, down * window - rows), (0, across * window - columns), (0, 0)))
    x = x.reshape(down, window, across, window, channels)
    return x.transpose(0, 2, 1, 3, 4).reshape(down * across, window * window, channels)


def join_windows(windows: NDArray[np.float32], rows: int, columns: int) -> NDArray[np.float32]:
    """Inverse of `partition_windows`: (windows, window * window, C) to (rows, columns, C), padding cut off."""
    window = math.isqrt(windows.shape[1])
    channels = windows.shape[2]
    down, across = -(-rows // window), -(-columns // window)
    x = windows.reshape(down, across, window, window, channels).transpose(0, 2, 1, 3, 4)
    return x.reshape(down * window, across * window, channels)[:rows, :columns]


def relative_position_bias(table: NDArray[np.float32], window: int) -> NDArray[np.float32]:
    """Attention bias of every pair of pixels of a window: (heads, window**2, window**2).

    table: (heads, window**2), one value per |row difference| * window + |column difference|: the bias of
    LeViT (Graham et al. 2021, section 4.2), which TinyViT numbers in the order in which the pairs of pixel 0
    meet the offsets, that is row-major.
    """
    pixel = np.arange(window * window)
    row, column = pixel // window, pixel % window
    offset = np.abs(row[:, None] - row) * window + np.abs(column[:, None] - column)
    return table[:, offset]
