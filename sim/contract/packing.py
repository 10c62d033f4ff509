"""Tensors packed as the Huffman codes of their bytes (DEFLATE in a zlib stream, RFC 1950 and 1951).

Integers after rounding are not evenly distributed: 4-bit weights have about 3.6 bits of entropy each, and no
repetitions. So packing looks for none, which is faster and gives fewer bytes than zlib's other settings, bzip2 or
LZMA; and as a Huffman code has at least one bit, a stream never unpacks to more than eight times its size.
"""

import math
import zlib
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sim.contract.errors import UserError

SMALLEST_PACKED: Final = 4096
"""Bytes from which on a tensor is packed, if that makes it smaller."""

LARGEST_RATIO: Final = 8
"""Bytes per byte of a stream, at most: one bit per byte."""

DTYPES: Final = ("int8", "uint8", "int16", "uint16", "int32", "int64", "float16", "float32")
"""Types of packed tensors, bytes in little-endian order."""

LARGEST_RANK: Final = 8

LARGEST_BLOCKS: Final = 9
"""zlib's memory level with most symbols to a code table."""


def _deflate(content: bytes) -> bytes:
    compressor = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS, LARGEST_BLOCKS, zlib.Z_HUFFMAN_ONLY)
    return compressor.compress(content) + compressor.flush()


def pack(tensors: Mapping[str, NDArray[Any]]) -> tuple[dict[str, NDArray[Any]], dict[str, dict[str, Any]]]:
    """Tensors as they are stored, and `{"dtype": ..., "shape": ...}` of those that became streams: uint8 (bytes,).

    Packed is what has SMALLEST_PACKED bytes and gets smaller; the rest is stored as it is.
    """
    stored: dict[str, NDArray[Any]] = dict(tensors)
    packed: dict[str, dict[str, Any]] = {}
    for key, value in tensors.items():
        if value.nbytes < SMALLEST_PACKED or value.dtype.name not in DTYPES:
            continue
        stream = _deflate(value.astype(value.dtype.newbyteorder("<"), copy=False).tobytes())
        if len(stream) < value.nbytes:
            stored[key] = np.frombuffer(stream, np.uint8)
            packed[key] = {"dtype": value.dtype.name, "shape": list(value.shape)}
    return stored, packed


def unpack(tensors: Mapping[str, NDArray[Any]], packed: object, where: str) -> dict[str, NDArray[Any]]:
    """The inverse of `pack`. Memory taken is at most LARGEST_RATIO times that of the stored tensors.

    Raises UserError, naming `where` and the tensor, when `packed` is not what `pack` gives, a stream is missing or
    damaged, or it does not hold exactly what its dtype and shape say.
    """
    if not isinstance(packed, Mapping):
        raise UserError(f"{where}: packed must be an object; export the model again")
    result = dict(tensors)
    for key, entry in packed.items():
        result[key] = _unpacked(key, entry, tensors.get(key), where)
    return result


def _unpacked(key: str, entry: Any, stream: NDArray[Any] | None, where: str) -> NDArray[Any]:
    if stream is None or stream.dtype != np.uint8 or stream.ndim != 1:
        raise UserError(f"{where}: no stream is stored for the packed tensor {key[:80]}; export the model again")
    dtype, shape = (entry.get("dtype"), entry.get("shape")) if isinstance(entry, Mapping) else (None, None)
    if dtype not in DTYPES or not isinstance(shape, list) or len(shape) > LARGEST_RANK:
        raise UserError(f"{where}: the packed tensor {key} has no known dtype and shape; export the model again")
    if not all(type(side) is int and 0 <= side < 1 << 32 for side in shape):
        raise UserError(f"{where}: the shape of the packed tensor {key} is not one; export the model again")
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size > LARGEST_RATIO * stream.size:
        raise UserError(f"{where}: the stream of {key} is too short for its shape {shape}; export the model again")
    decompressor = zlib.decompressobj()
    try:
        # One byte more than needed, so that a stream that holds more is told apart without unpacking it.
        content = decompressor.decompress(stream.tobytes(), size + 1)
    except zlib.error as error:
        raise UserError(f"{where}: the stream of {key} is damaged ({error}); export the model again") from error
    if len(content) != size or not decompressor.eof or decompressor.unused_data:
        raise UserError(f"{where}: the stream of {key} does not hold its shape {shape}; export the model again")
    return np.frombuffer(content, np.dtype(dtype).newbyteorder("<")).astype(dtype).reshape(shape)
