"""The commands of the machine and their encoding: 32 bytes each, little-endian.

byte 0       opcode
byte 1       port
byte 2       READ: token_dims; SEND: bytes of the payload that count
byte 3       READ, WRITE: base register that is added to the address, 0 for none
bytes 4-7    READ, WRITE: address of the first beat; REPEAT: address of the first command of the body
bytes 8-15   READ, WRITE: four counts of 16 bits, innermost first
bytes 8-9    REPEAT: rounds
bytes 12-31  REPEAT: steps of base registers 1 to 5, signed 32 bits
bytes 16-27  READ, WRITE: strides of dimensions 1, 2 and 3 in bytes, signed 32 bits
bytes 28-31  READ: payloads to deliver, 0 for all that the beats hold
bytes 8-31   SEND: payload
"""

import struct
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from sim.contract.errors import UserError
from sim.machine.ports import Port

COMMAND_BYTES: Final = 32
SEND_BYTES_MAX: Final = 24
DIMENSIONS: Final = 4
BASES: Final = 5
"""Base registers."""

COUNT_MAX: Final = (1 << 16) - 1

_MOVE: Final = struct.Struct("<BBBBI4H3iI")
_REPEAT: Final = struct.Struct("<BxxxIHxx5i")
_SEND: Final = struct.Struct("<BBBx4x24s")


class Opcode(IntEnum):
    """What a command does. 0 is none of them, so that cleared memory stops the machine."""

    READ = 1
    WRITE = 2
    SEND = 3
    WAIT = 4
    STOP = 5
    REPEAT = 6


@dataclass(frozen=True)
class Command:
    """One command; fields that the opcode does not use keep their defaults.

    address: of beat (0, 0, 0, 0); beat (i0, i1, i2, i3) of the nested loops, i0 fastest, is at
    address + i0 * beat_bytes + i1 * strides[0] + i2 * strides[1] + i3 * strides[2]. counts: of the loops, 1..65535.
    token_dims: `last` accompanies a beat that ends the innermost token_dims loops all at once; 0: never. payloads: how
    many the port takes (READ), the rest of the last beat is dropped. payload: bytes of SEND. base: register that is
    added to the address, 1..BASES, or 0. rounds: of REPEAT, 1..65535, of the body from command address `address` on;
    steps: what is added to the base registers before every round but the first.
    """

    opcode: Opcode
    port: Port | None = None
    address: int = 0
    counts: tuple[int, int, int, int] = (1, 1, 1, 1)
    strides: tuple[int, int, int] = (0, 0, 0)
    token_dims: int = 0
    payloads: int = 0
    payload: bytes = field(default=b"")
    base: int = 0
    rounds: int = 0
    steps: tuple[int, int, int, int, int] = (0, 0, 0, 0, 0)

    @property
    def beats(self) -> int:
        """Beats of memory that a READ or WRITE moves."""
        a, b, c, d = self.counts
        return a * b * c * d

    def encode(self) -> bytes:
        """The 32 bytes. Raises ValueError for a field out of range."""
        port = 0 if self.port is None else int(self.port)
        if self.opcode == Opcode.SEND:
            if not 1 <= len(self.payload) <= SEND_BYTES_MAX:
                raise ValueError(f"SEND carries 1..{SEND_BYTES_MAX} bytes, found {len(self.payload)}")
            return _SEND.pack(self.opcode, port, len(self.payload), self.payload)
        if self.opcode == Opcode.REPEAT:
            return self._encode_repeat()
        if not all(1 <= count <= COUNT_MAX for count in self.counts):
            raise ValueError(f"counts must be in 1..{COUNT_MAX}, found {self.counts}")
        if not 0 <= self.base <= BASES:
            raise ValueError(f"base must be in 0..{BASES}, found {self.base}")
        if not 0 <= self.token_dims <= DIMENSIONS:
            raise ValueError(f"token_dims must be in 0..{DIMENSIONS}, found {self.token_dims}")
        try:
            return _MOVE.pack(
                self.opcode, port, self.token_dims, self.base, self.address, *self.counts, *self.strides, self.payloads
            )
        except struct.error as error:
            raise ValueError(f"{self} does not fit its encoding: {error}") from error

    def _encode_repeat(self) -> bytes:
        if not 1 <= self.rounds <= COUNT_MAX:
            raise ValueError(f"rounds must be in 1..{COUNT_MAX}, found {self.rounds}")
        try:
            return _REPEAT.pack(self.opcode, self.address, self.rounds, *self.steps)
        except struct.error as error:
            raise ValueError(f"{self} does not fit its encoding: {error}") from error


def decode(word: bytes) -> Command:
    """The command of 32 bytes. Raises UserError for an opcode or port that does not exist."""
    opcode, number = word[0], word[1]
    try:
        kind = Opcode(opcode)
        port = None if kind in (Opcode.WAIT, Opcode.STOP, Opcode.REPEAT) else Port(number)
    except ValueError as error:
        raise UserError(f"no command has opcode {opcode} and port {number}; compile the program again") from error
    if kind == Opcode.SEND:
        _, _, length, payload = _SEND.unpack(word)
        return Command(kind, port, payload=payload[:length])
    if kind == Opcode.REPEAT:
        _, address, rounds, *steps = _REPEAT.unpack(word)
        return Command(kind, address=address, rounds=rounds, steps=tuple(steps))
    _, _, token_dims, base, address, a, b, c, d, s1, s2, s3, payloads = _MOVE.unpack(word)
    return Command(kind, port, address, (a, b, c, d), (s1, s2, s3), token_dims, payloads, base=base)
