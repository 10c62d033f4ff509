"""The host protocol, said once: opcodes, status codes, body layouts, limits.

A packet travels as COBS(packet + CRC-32) + zero byte (:mod:`hdl.link.cobs`, :mod:`hdl.link.crc`).
Numbers are little-endian.

    request  [sequence u8] [opcode u8] [body]
    reply    [sequence u8] [status u8] [body]

Every frame is answered exactly once, in order. A frame that cannot be believed (damaged, too long,
too short) has no believable sequence byte either: it is answered with sequence 0, which no request
may use. A body is checked whole before any of it is handed on.

    opcode     request body                                reply body (status OK)
    IDENTIFY   -                                           Identity
    CODEBOOK   address u16, n steps                        transfers taken u16
    WEIGHTS    n transfers of loader_rows x columns        transfers taken u16
    SCALE      n transfers of columns u16                  transfers taken u16
    BIAS       n transfers of columns i32, columns u16     transfers taken u16
    COMMAND    Command                                     transfers taken u16
    CODES      n transfers of rows nibbles                 transfers taken u16
    READ       tokens u16                                  that many tokens or fewer, columns i16 each
    COUNTERS   -                                           Counters

A transfer is the payload of one stream transfer of the array, its bits little-endian, padded to
whole bytes: nibbles go low half first. BIAS brings biases and scales of a LOAD with load_bias, which
takes both at once; SCALE brings the scales of a LOAD without. BUSY (the array did not take a
transfer within the watchdog count) carries the number of transfers that it did take; the rest is
forgotten. READ ends its reply when the asked tokens are sent or none came within the watchdog
count; fewer tokens than asked for is not an error of the link. Other errors carry no body.
"""

import struct
from dataclasses import astuple, dataclass
from enum import IntEnum
from typing import ClassVar, Self

__all__ = [
    "BODY_BYTES",
    "HEADER_BYTES",
    "LINK_SEQUENCE",
    "MAGIC",
    "PROTOCOL_VERSION",
    "WRITE_OPCODES",
    "Command",
    "Counters",
    "Identity",
    "Opcode",
    "Status",
    "pack_packet",
    "unpack_packet",
]

PROTOCOL_VERSION = 1
#: First bytes of an identity.
MAGIC = int.from_bytes(b"nSAM", "little")
#: Sequence and opcode, or sequence and status.
HEADER_BYTES = 2
#: Most bytes of a body, in either direction.
BODY_BYTES = 1024
#: Sequence byte of replies to frames that could not be believed.
LINK_SEQUENCE = 0


class Opcode(IntEnum):
    """What a request asks for."""

    IDENTIFY = 1
    CODEBOOK = 2
    WEIGHTS = 3
    SCALE = 4
    BIAS = 5
    COMMAND = 6
    CODES = 7
    READ = 8
    COUNTERS = 9


#: Requests that hand transfers to a stream of the array.
WRITE_OPCODES = (Opcode.CODEBOOK, Opcode.WEIGHTS, Opcode.SCALE, Opcode.BIAS, Opcode.COMMAND, Opcode.CODES)


class Status(IntEnum):
    """How a request ended. The first four after OK are answered with sequence 0."""

    OK = 0
    CORRUPT = 1  # COBS block cut short, or a byte with a missing stop bit
    BAD_CRC = 2
    OVERSIZE = 3  # body above BODY_BYTES
    TOO_SHORT = 4  # no room for sequence, opcode and CRC
    UNKNOWN_OPCODE = 5
    BAD_LENGTH = 6  # body length does not fit the opcode
    OUT_OF_RANGE = 7  # a field of the body, or the sequence byte 0
    BUSY = 8  # the array did not take a transfer in time


@dataclass(frozen=True)
class _Record:
    """A body of fixed layout: fields in order, packed little-endian without padding."""

    FORMAT: ClassVar[str]

    def pack(self) -> bytes:
        """The body. ``struct.error`` if a field does not fit its width."""
        return struct.pack(self.FORMAT, *astuple(self))

    @classmethod
    def size(cls) -> int:
        """Bytes of the body."""
        return struct.calcsize(cls.FORMAT)

    @classmethod
    def unpack(cls, body: bytes) -> Self:
        """Record of a body; ``ValueError`` if the length is another one."""
        if len(body) != cls.size():
            raise ValueError(f"{cls.__name__} takes {cls.size()} bytes, not {len(body)}")
        return cls(*struct.unpack(cls.FORMAT, body))


@dataclass(frozen=True)
class Identity(_Record):
    """What is at the other end. Depths in transfers, sizes in bytes, clock in kHz."""

    magic: int
    version: int
    rows: int
    columns: int
    loader_rows: int
    token_depth: int
    codebooks: int
    codebook_steps: int
    step_bytes: int
    output_depth: int
    receive_bytes: int
    clock_khz: int
    idle: int

    FORMAT = "<IB9HIB"


@dataclass(frozen=True)
class Command(_Record):
    """One command for the array. ``opcode`` 0 loads a tile (``tokens`` 0), 1 runs ``tokens`` tokens."""

    opcode: int
    codebook: int
    flags: int
    tokens: int

    FORMAT = "<BBBH"

    LOAD_BIAS: ClassVar[int] = 1
    FIRST: ClassVar[int] = 2
    LAST: ClassVar[int] = 4

    @classmethod
    def load(cls, codebook: int, *, load_bias: bool) -> Self:
        """LOAD of the tile that the next SCALE, BIAS and WEIGHTS bring."""
        return cls(0, codebook, cls.LOAD_BIAS * load_bias, 0)

    @classmethod
    def run(cls, tokens: int, *, first: bool, last: bool) -> Self:
        """RUN of the ``tokens`` tokens that the next CODES bring."""
        return cls(1, 0, cls.FIRST * first | cls.LAST * last, tokens)


@dataclass(frozen=True)
class Counters(_Record):
    """Free-running 32-bit counts since configuration; take differences modulo 2^32."""

    good_frames: int
    bad_frames: int
    busy_replies: int
    busy_cycles: int

    FORMAT = "<4I"


def pack_packet(sequence: int, kind: int, body: bytes = b"") -> bytes:
    """Packet of a request (``kind`` an opcode) or a reply (``kind`` a status), without its CRC."""
    return bytes([sequence, kind]) + body


def unpack_packet(packet: bytes) -> tuple[int, int, bytes]:
    """``(sequence, kind, body)`` of a packet; ``ValueError`` if it has no header."""
    if len(packet) < HEADER_BYTES:
        raise ValueError(f"a packet has at least {HEADER_BYTES} bytes, not {len(packet)}")
    return packet[0], packet[1], packet[HEADER_BYTES:]
