"""Layouts of what the parts of the machine hand to each other, and what a command says, bit by bit."""

from dataclasses import dataclass
from typing import Final

from amaranth.hdl import Value, unsigned
from amaranth.lib import data

from hdl.machine.fault import WHERE_BITS
from hdl.parameters import require
from sim.machine.commands import COMMAND_BYTES, DIMENSIONS

COUNT_BITS: Final = 16
ADDRESS_BITS: Final = 32
PORT_BITS: Final = 7
TOKEN_DIMS_BITS: Final = DIMENSIONS.bit_length()
SIZE_BITS: Final = 5
"""Of byte 2: token_dims of READ, bytes of SEND; what is larger is refused before."""

PAYLOADS_BITS: Final = 32

COMMAND_LAYOUT: Final = data.StructLayout(
    {
        "opcode": unsigned(8),
        "port": unsigned(8),
        "size": unsigned(8),
        "base": unsigned(8),
        "address": unsigned(ADDRESS_BITS),
        "counts": data.ArrayLayout(unsigned(COUNT_BITS), DIMENSIONS),
        "strides": data.ArrayLayout(unsigned(ADDRESS_BITS), DIMENSIONS - 1),
        "payloads": unsigned(PAYLOADS_BITS),
    }
)
"""sim.machine.commands as hardware sees it; the payload of SEND lies from `counts` on."""

BODY_BITS: Final = COMMAND_LAYOUT.size - 64
"""From `counts` on: the loops of READ and WRITE, the payload of SEND."""


@dataclass(frozen=True)
class Beats:
    """Sizes of memory. bytes: of a beat, 2, 4, ..., 32. count: beats of external memory, from address 0 on. near: beats
    of near memory behind them, may be 0.

    Raises ValueError naming the parameter, its limit and the nearest valid value.
    """

    bytes: int
    count: int
    near: int = 0

    def __post_init__(self) -> None:
        require("beat_bytes", self.bytes, (2, 4, 8, 16, 32), "a power of two in 2..32")
        limit = 1 << self.address_bits
        require("beats", self.count, range(self.per_command, limit + 1), f"in {self.per_command}..{limit}")
        require("near_beats", self.near, range(limit - self.count + 1), f"in 0..{limit - self.count}")

    @property
    def bits(self) -> int:
        """Bits of a beat."""
        return 8 * self.bytes

    @property
    def offset_bits(self) -> int:
        """Bits of a byte address within a beat: 0 in every address."""
        return self.bytes.bit_length() - 1

    @property
    def address_bits(self) -> int:
        """Bits of the number of a beat in commands."""
        return ADDRESS_BITS - self.offset_bits

    @property
    def port_bits(self) -> int:
        """Bits of the number of a beat of external memory."""
        return max((self.count - 1).bit_length(), 1)

    @property
    def near_bits(self) -> int:
        """Bits of the number of a beat of near memory, counted from its first one."""
        return max((self.near - 1).bit_length(), 1)

    def near_address(self, address: Value) -> Value:
        """Number within near memory of a beat that lies there: wires alone where `count` is a multiple of `near`."""
        return (address[: self.near_bits] - self.count % (1 << self.near_bits))[: self.near_bits]

    @property
    def per_command(self) -> int:
        """Beats of a command."""
        return COMMAND_BYTES // self.bytes

    @property
    def loops_layout(self) -> data.StructLayout:
        """Four nested loops over addresses in beats; strides of dimensions 1..3, modulo 2**address_bits."""
        return data.StructLayout(
            {
                "address": unsigned(self.address_bits),
                "counts": data.ArrayLayout(unsigned(COUNT_BITS), DIMENSIONS),
                "strides": data.ArrayLayout(unsigned(self.address_bits), DIMENSIONS - 1),
                "token_dims": unsigned(TOKEN_DIMS_BITS),
                "where": unsigned(WHERE_BITS),
            }
        )

    @property
    def move_layout(self) -> data.StructLayout:
        """A READ, SEND or WRITE that has been checked. size, body: see COMMAND_LAYOUT and BODY_BITS."""
        return data.StructLayout(
            {
                "send": unsigned(1),
                "port": unsigned(PORT_BITS),
                "size": unsigned(SIZE_BITS),
                "address": unsigned(self.address_bits),
                "body": unsigned(BODY_BITS),
                "where": unsigned(WHERE_BITS),
            }
        )

    @property
    def beat_layout(self) -> data.StructLayout:
        """A beat on its way to a port. last: it ends a token. final: it ends its READ. error: it could not be read."""
        return data.StructLayout(
            {"data": unsigned(self.bits), "last": unsigned(1), "final": unsigned(1), "error": unsigned(1)}
        )


def payload_layout(payload_bytes: int) -> data.StructLayout:
    """What a port is offered. last: the payload ends a token; 0 for payloads of several beats and weights."""
    return data.StructLayout({"data": unsigned(8 * payload_bytes), "last": unsigned(1)})


DELIVERY_LAYOUT: Final = data.StructLayout(
    {
        "send": unsigned(1),
        "port": unsigned(PORT_BITS),
        "size": unsigned(SIZE_BITS),
        "body": unsigned(BODY_BITS),
        "where": unsigned(WHERE_BITS),
    }
)
"""What becomes of a READ's beats (`body` holds its number of payloads at its end), or of a SEND's body."""
