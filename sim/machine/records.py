"""Records of ports as bytes: packed and taken apart by the definition of sim.machine.ports."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.machine.ports import RECORDS, Port, payload_bytes, record_bytes
from sim.machine.presets import MachinePreset


def pack_records(port: Port, preset: MachinePreset, fields: dict[str, Any]) -> bytes:
    """Payloads of a port that takes records, fields (n,) or integers by name; bits beyond a field's are cut off.

    Raises KeyError for a field that is missing.
    """
    columns = {name: np.atleast_1d(np.asarray(value, np.int64)) for name, value in fields.items()}
    count = max(column.size for column in columns.values())
    packed = np.zeros((count, payload_bytes(port, preset)), np.uint8)
    start = 0
    for field in RECORDS[port]:
        value = np.broadcast_to(columns[field.name], count).astype(np.uint64)
        if field.bits < 64:
            value = value & np.uint64((1 << field.bits) - 1)
        at, shift = divmod(start, 8)
        # A field that does not begin with a byte is so short that the shift loses nothing.
        value = value << np.uint64(shift)
        for byte in range(-(-(shift + field.bits) // 8)):
            packed[:, at + byte] |= (value >> np.uint64(8 * byte)).astype(np.uint8)
        start += field.bits
    return packed.tobytes()


def unpack_records(port: Port, data: NDArray[np.uint8]) -> dict[str, NDArray[np.int64]]:
    """Fields int64 (n,) by name of records uint8 (n, bytes), bytes at least those of the fields."""
    fields: dict[str, NDArray[np.int64]] = {}
    start = 0
    for field in RECORDS[port]:
        at, shift = divmod(start, 8)
        value = np.zeros(len(data), np.uint64)
        for byte in range(-(-(shift + field.bits) // 8)):
            value |= data[:, at + byte].astype(np.uint64) << np.uint64(8 * byte)
        spare = 64 - field.bits
        value = value >> np.uint64(shift) << np.uint64(spare)
        fields[field.name] = (
            value.view(np.int64) >> spare if field.signed else (value >> np.uint64(spare)).view(np.int64)
        )
        start += field.bits
    return fields


def sent_fields(port: Port, payload: bytes) -> dict[str, int]:
    """Fields by name of the first record of a SEND's payload; what it lacks at its end is 0."""
    whole, fields = int.from_bytes(payload[: record_bytes(port)], "little"), {}
    for field in RECORDS[port]:
        value, whole = whole & ((1 << field.bits) - 1), whole >> field.bits
        fields[field.name] = value - (1 << field.bits) if field.signed and value >> (field.bits - 1) else value
    return fields
