"""Ports between memory and the units: what one payload of each holds, byte by byte.

A payload is a record of fields, little-endian, one behind the other from bit 0 on; or a vector of equal elements,
element k at bit k * width. Its size is rounded up to a power of two bytes (the rest is ignored), so that it is a whole
number of beats, or a beat is a whole number of payloads.
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
    CODE_BLOCK = 30
    ROUTE = 31
    COPIED = 64
    RESULTS = 65
    ENCODED = 66
    NORMED = 67
    SUMS = 68
    ACTIVATED = 69
    CONVOLVED = 70


@dataclass(frozen=True)
class Field:
    """name, bits on the wire, signed."""

    name: str
    bits: int
    signed: bool = False


def _unsigned(**sizes: int) -> tuple[Field, ...]:
    return tuple(Field(name, size) for name, size in sizes.items())


RECORDS: Final[dict[Port, tuple[Field, ...]]] = {
    Port.ARRAY_COMMAND: _unsigned(
        phase=2,
        first=1,
        last=1,
        split=1,
        release=1,
        planes=2,
        codebook=6,
        runs=2,
        queries=16,
        keys=16,
        tiles=16,
        groups=16,
        word=16,
        pitch=16,
    ),
    Port.CODEBOOK: _unsigned(address=16, step=16),
    Port.THRESHOLD: _unsigned(code=16, threshold=16),
    Port.SCORE_LEVEL: _unsigned(code=8, nibble0=8, nibble1=8, nibble2=8),
    Port.POSITION_COMMAND: _unsigned(kind=8, rows=8, columns=8, first_query=16, queries=16),
    Port.ENCODER_CHANNEL: (
        Field("position", 16),
        Field("multiplier", 16, signed=True),
        Field("addend", 32, signed=True),
    ),
    Port.ENCODER_TILE: _unsigned(tile=16, shift=8, table=8),
    Port.ENCODER_TABLE: _unsigned(address=16, code=8),
    Port.ENCODER_ORDER: _unsigned(position=14, channel=14, bank=4),
    Port.ENCODER_PLANES: _unsigned(planes=8),
    Port.CODE_BLOCK: _unsigned(words=16),
    Port.ROUTE: _unsigned(source=8, on=8, beats=16),
    Port.NORM_COMMAND: _unsigned(tokens=16, channels=16, shift=16, epsilon=64),
    Port.NORM_PARAMETER: (
        Field("position", 16),
        Field("gain", 16, signed=True),
        Field("bias", 32, signed=True),
    ),
    Port.RESIDUAL_SETTING: _unsigned(first=8, second=8),
    Port.ACTIVATION_TABLE: (Field("address", 16), Field("sample", 16, signed=True)),
    Port.ACTIVATION_SETTING: _unsigned(segment_bits=8),
    Port.DEPTHWISE_MAP: _unsigned(last_row=16, last_column=16, stride_two=8, shift=8),
    Port.DEPTHWISE_CHANNEL: (
        *(Field(f"weight{tap}", 8, signed=True) for tap in range(9)),
        Field("multiplier", 16),
        Field("bias", 48, signed=True),
    ),
}
"""Fields of the ports that take records."""

ROUTES: Final = {
    Port.NORMED: Port.ENCODER_VALUES,
    Port.ENCODED: Port.CODES,
    Port.RESULTS: Port.ACTIVATION_VALUES,
    Port.CONVOLVED: Port.ACTIVATION_VALUES,
    Port.SUMS: Port.ACTIVATION_VALUES,
}
"""Outputs whose beats may go to an input port instead of memory (Port.ROUTE). Payloads of these inputs are beats."""


def record_bytes(port: Port) -> int:
    """Bytes of the fields of a record."""
    return -(-sum(field.bits for field in RECORDS[port]) // 8)


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
    size = record_bytes(port) if vector is None else vector[0] * vector[1] // 8
    return 1 << (size - 1).bit_length()


def is_output(port: Port) -> bool:
    """True for ports that WRITE empties."""
    return port >= Port.COPIED
