"""Payloads of a port as numbers."""

import numpy as np
from numpy.typing import NDArray

from sim.contract.nibbles import unpack_nibbles
from sim.machine.ports import Port


def wide(data: NDArray[np.uint8]) -> NDArray[np.int16]:
    """Wide values (n, elements) of vectors uint8 (n, bytes)."""
    return np.ascontiguousarray(data).view("<i2")


def wide_bytes(values: NDArray[np.int16]) -> NDArray[np.uint8]:
    """The bytes of wide values in order, uint8 (bytes,)."""
    return np.ascontiguousarray(values, "<i2").reshape(-1).view(np.uint8)


def scales(data: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Scales (n, columns)."""
    return np.ascontiguousarray(data).view("<u2")


def biases(data: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Biases (n, columns)."""
    return np.ascontiguousarray(data).view("<i4")


def nibbles(data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Nibbles uint8 (n, 2 * bytes), the low one of a byte first."""
    split = np.empty((*data.shape, 2), np.uint8)
    np.bitwise_and(data, 15, out=split[..., 0])
    np.right_shift(data, 4, out=split[..., 1])
    return split.reshape(len(data), -1)


def weights(port: Port, data: NDArray[np.uint8], loader_rows: int, columns: int) -> NDArray[np.int8]:
    """Weights int8 (n * loader_rows, columns) of payloads of WEIGHTS, or of WEIGHTS_TURNED: column by column."""
    flat = unpack_nibbles(data, loader_rows * columns)
    if port == Port.WEIGHTS:
        return flat.reshape(-1, columns)
    return flat.reshape(-1, columns, loader_rows).transpose(0, 2, 1).reshape(-1, columns)
