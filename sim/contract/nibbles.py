"""Two signed 4-bit weights per byte."""

import numpy as np
from numpy.typing import NDArray


def pack_nibbles(weight: NDArray[np.int8]) -> NDArray[np.uint8]:
    """int8 (N, K) within [-8, 7] to uint8 (N, ceil(K / 2)): even k in the low nibble, a last odd k beside zero."""
    outputs, inputs = weight.shape
    nibbles = np.zeros((outputs, inputs + inputs % 2), np.uint8)
    nibbles[:, :inputs] = weight.astype(np.uint8) & 0xF
    return nibbles[:, 0::2] | (nibbles[:, 1::2] << 4)


def unpack_nibbles(packed: NDArray[np.uint8], inputs: int) -> NDArray[np.int8]:
    """The inverse of `pack_nibbles` for K = `inputs` columns."""
    nibbles = np.empty((packed.shape[0], 2 * packed.shape[1]), np.uint8)
    nibbles[:, 0::2] = packed & 0xF
    nibbles[:, 1::2] = packed >> 4
    return (((nibbles ^ 8).astype(np.int16) - 8)[:, :inputs]).astype(np.int8)
