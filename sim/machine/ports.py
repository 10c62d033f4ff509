"""Ports between memory and the units: what one payload of each holds, byte by byte.

A payload is a record of fields, little-endian, one behind the other, each of a whole number of bytes; or a vector of
equal elements, element k at bit k * width. Its size is rounded up to a power of two bytes (the rest is ignored), so
that it is a whole number of beats, or a beat is a whole number of payloads.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from sim.machine.presets import MachinePreset


class Port(IntEnum):
    """READ and SEND feed inputs, WRITE empties outputs (from 64 on). docs/machine.md says what each does."""

    COPY = 1
    ARRAY_COMMAND = 2
    CODEBOOK = 3
    WEIGHTS = 4
    WEIGHTS_TURNED = 5
    SCALE = 6
    BIAS = 7
    CODES = 8
    THRESHOLD = 9
    SCORE_LEVEL = 10
    POSITION_COMMAND = 11
    POSITION_VALUES = 12
    ENCODER_CHANNEL = 13
    ENCODER_TILE = 14
    ENCODER_TABLE = 15
    ENCODER_PLANES = 16
    ENCODER_VALUES = 17
    NORM_COMMAND = 18
    NORM_PARAMETER = 19
    NORM_VALUES = 20
    RESIDUAL_SETTING = 21
    RESIDUAL_VALUES = 22
    ACTIVATION_TABLE = 23
    ACTIVATION_SETTING = 24
    ACTIVATION_VALUES = 25
    DEPTHWISE_MAP = 26
    DEPTHWISE_CHANNEL = 27
    DEPTHWISE_VALUES = 28
    ENCODER_ORDER = 29
    COPIED = 64
    RESULTS = 65
    ENCODED = 66
    NORMED = 67
    SUMS = 68
    ACTIVATED = 69
    CONVOLVED = 70


@dataclass(frozen=True)
class Field:
    """name, bytes on the wire, signed."""

    name: str
    bytes: int
    signed: bool = False


def _unsigned(**sizes: int) -> tuple[Field, ...]:
    return tuple(Field(name, size) for name, size in sizes.items())


RECORDS: Final[dict[Port, tuple[Field, ...]]] = {
    Port.ARRAY_COMMAND: _unsigned(
        phase=1, codebook=1, queries=2, keys=2, tiles=2, groups=2, planes=1, runs=1, first=1, last=1, split=1
    ),
    Port.CODEBOOK: _unsigned(address=2, step=2),
    Port.THRESHOLD: _unsigned(code=2, threshold=2),
    Port.SCORE_LEVEL: _unsigned(code=1, nibble0=1, nibble1=1),
    Port.POSITION_COMMAND: _unsigned(kind=1, rows=1, columns=1, first_query=2, queries=2),
    Port.ENCODER_CHANNEL: (Field("position", 2), Field("multiplier", 2, signed=True), Field("addend", 4, signed=True)),
    Port.ENCODER_TILE: _unsigned(tile=2, shift=1, table=1),
    Port.ENCODER_TABLE: _unsigned(address=2, code=1),
    Port.ENCODER_ORDER: _unsigned(position=2, channel=2),
    Port.ENCODER_PLANES: _unsigned(planes=1),
    Port.NORM_COMMAND: _unsigned(tokens=2, channels=2, shift=2, epsilon=8),
    Port.NORM_PARAMETER: (
        Field("position", 2),
        Field("channel", 2),
        Field("gain", 2, signed=True),
        Field("bias", 4, signed=True),
    ),
    Port.RESIDUAL_SETTING: _unsigned(first=1, second=1),
    Port.ACTIVATION_TABLE: (Field("address", 2), Field("sample", 2, signed=True)),
    Port.ACTIVATION_SETTING: _unsigned(segment_bits=1),
    Port.DEPTHWISE_MAP: _unsigned(last_row=2, last_column=2, stride_two=1, shift=1),
    Port.DEPTHWISE_CHANNEL: (
        *(Field(f"weight{tap}", 1, signed=True) for tap in range(9)),
        Field("multiplier", 2),
        Field("bias", 6, signed=True),
    ),
}
"""Fields of the ports that take records."""


def vector_of(port: Port, preset: MachinePreset) -> tuple[int, int] | None:
    """(elements, bits of each) of a port that takes or gives vectors, or None for one of records.

    WEIGHTS: [loader row][column]. WEIGHTS_TURNED: the same operand, [column][loader row].
    """
    weights = (preset.loader_rows * preset.columns, 4)
    vectors = {
        Port.WEIGHTS: weights,
        Port.WEIGHTS_TURNED: weights,
        Port.SCALE: (preset.columns, 16),
        Port.BIAS: (preset.columns, 32),
        Port.CODES: (preset.rows, 4),
        Port.RESULTS: (preset.columns, 16),
        Port.NORM_VALUES: (preset.norm_lanes, 16),
        Port.NORMED: (preset.norm_lanes, 16),
    }
    if port in RECORDS:
        return None
    return vectors.get(port, (preset.lanes, 16))


def payload_bytes(port: Port, preset: MachinePreset) -> int:
    """Size of one payload in memory: a power of two."""
    vector = vector_of(port, preset)
    size = sum(field.bytes for field in RECORDS[port]) if vector is None else vector[0] * vector[1] // 8
    return 1 << (size - 1).bit_length()


def is_output(port: Port) -> bool:
    """True for ports that WRITE empties."""
    return port >= Port.COPIED
