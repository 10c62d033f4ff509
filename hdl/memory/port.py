"""The port between the machine and its memory, whatever kind of memory that is."""

from typing import Final

from amaranth.hdl import unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.parameters import require

BEAT_BITS: Final = tuple(16 << log for log in range(6))
"""1 to 32 wide values."""

ADDRESS_BITS_MAX: Final = 32


def request_layout(*, address_bits: int, beat_bits: int) -> data.StructLayout:
    """address: in beats, not in bytes. write: 1 to store `data`, 0 to read (`data` is then ignored)."""
    return data.StructLayout({"address": unsigned(address_bits), "write": unsigned(1), "data": unsigned(beat_bits)})


def response_layout(*, beat_bits: int) -> data.StructLayout:
    """data: of one read. error: the memory could not read it; `data` is then undefined."""
    return data.StructLayout({"data": unsigned(beat_bits), "error": unsigned(1)})


class MemoryPort(wiring.Signature):
    """One memory as its user sees it; a controller has the port flipped: `In(MemoryPort(...))`.

    - `request`: reads and writes of whole beats, done in order: a read sees every write accepted before it. A request
      that is offered stays until it is accepted.
    - `response`: one for every read, in the order of the reads, none for a write, at the earliest in the cycle after
      its request. The user keeps room for all that it has asked for: it takes a response in the cycle that offers it,
      so a controller may leave `ready` alone.
    - `error`: a write failed, at some time since reset; stays 1.

    An address outside the memory changes nothing: a read answers with `error`, a write sets the line.

    address_bits: 1..32, of the number of a beat. beat_bits: 16, 32, ..., 512.
    Raises ValueError naming the parameter, its limit and the nearest valid value.
    """

    def __init__(self, *, address_bits: int, beat_bits: int) -> None:
        limit = f"in 1..{ADDRESS_BITS_MAX}"
        self.address_bits = require("address_bits", address_bits, range(1, ADDRESS_BITS_MAX + 1), limit)
        self.beat_bits = require("beat_bits", beat_bits, BEAT_BITS, f"one of {BEAT_BITS}")
        request = request_layout(address_bits=address_bits, beat_bits=beat_bits)
        super().__init__(
            {
                "request": Out(stream.Signature(request)),
                "response": In(stream.Signature(response_layout(beat_bits=beat_bits))),
                "error": In(1),
            }
        )
