"""Numpy arrays <-> stream payloads: many transfers at once, bits placed by the Amaranth layout of the port."""

from collections.abc import Mapping

import numpy as np
from amaranth.hdl import Shape, ShapeLike
from amaranth.lib import data
from numpy.typing import ArrayLike, NDArray

Fields = Mapping[str, "Fields | ArrayLike"]


def pack(layout: ShapeLike, values: "Fields | ArrayLike") -> NDArray[np.uint8]:
    """Payloads of n transfers, uint8 (n, bytes), little endian, for values of a layout.

    layout: an integer shape takes an integer array (n,), an ArrayLayout of length L an array (n, L, ...), a
    StructLayout a mapping from field name to the values of that field. Raises ValueError when a value does not
    fit its field or a shape is wrong.
    """
    return np.packbits(_to_bits(layout, values), axis=1, bitorder="little")


def unpack(layout: ShapeLike, payloads: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Values int64 (n,) or (n, L, ...) of n payloads uint8 (n, bytes) of an integer shape or (nested) ArrayLayout."""
    bits = np.unpackbits(payloads, axis=1, bitorder="little")[:, : Shape.cast(layout).width]
    return _from_bits(layout, bits)


def payload_bytes(layout: ShapeLike) -> int:
    """Bytes of one packed payload."""
    return -(-Shape.cast(layout).width // 8)


def _to_bits(layout: ShapeLike, values: "Fields | ArrayLike") -> NDArray[np.uint8]:
    if isinstance(layout, data.StructLayout):
        if not isinstance(values, Mapping) or set(values) != set(layout.members):
            raise ValueError(f"this payload has the fields {list(layout.members)}")
        return np.concatenate([_to_bits(shape, values[name]) for name, shape in layout.members.items()], axis=1)
    array = np.asarray(values).astype(np.int64)
    if isinstance(layout, data.ArrayLayout):
        if array.ndim < 2 or array.shape[1] != layout.length:
            raise ValueError(f"this payload has {layout.length} elements a transfer, values have shape {array.shape}")
        inner = _to_bits(layout.elem_shape, array.reshape(array.shape[0] * layout.length, *array.shape[2:]))
        return inner.reshape(array.shape[0], layout.length * inner.shape[1])
    shape = Shape.cast(layout)
    if array.ndim != 1:
        raise ValueError(f"{shape!r} takes one integer a transfer, values have shape {array.shape}")
    low, high = (-(1 << shape.width - 1), (1 << shape.width - 1) - 1) if shape.signed else (0, (1 << shape.width) - 1)
    if array.size and (array.min() < low or array.max() > high):
        raise ValueError(f"values {array.min()}..{array.max()} do not fit {shape!r}")
    return (array[:, None] >> np.arange(shape.width) & 1).astype(np.uint8)


def _from_bits(layout: ShapeLike, bits: NDArray[np.uint8]) -> NDArray[np.int64]:
    if isinstance(layout, data.ArrayLayout):
        width = Shape.cast(layout.elem_shape).width
        inner = _from_bits(layout.elem_shape, bits.reshape(bits.shape[0] * layout.length, width))
        return inner.reshape(bits.shape[0], layout.length, *inner.shape[1:])
    shape = Shape.cast(layout)
    weights = np.int64(1) << np.arange(shape.width, dtype=np.int64)
    if shape.signed:
        weights[-1] = -weights[-1]
    return bits.astype(np.int64) @ weights
