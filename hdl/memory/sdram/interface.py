"""What the two halves of the controller tell each other."""

from amaranth.hdl import unsigned
from amaranth.lib import data

from hdl.memory.sdram.pins import ADDRESS_PINS, Command

QUEUE_DEPTH = 4
"""Prepared requests that wait for the bus: so many beats of time to open the row of the next."""

REQUEST_CYCLES = 3
"""From one request to the next when its row is open: take, compare, hand on."""

RCD_MAX = 4
"""Cycles from ACTIVATE until the request that it was for can be on the pins at the earliest."""

RowCommand = data.StructLayout({"command": Command, "ba": 2, "a": ADDRESS_PINS})


def prepared_layout(place_bits: int) -> data.StructLayout:
    """A request whose row is open, or one outside the part (`error`), for which nothing is told to the part."""
    return data.StructLayout({"write": 1, "error": 1, "bank": 2, "place": unsigned(place_bits)})
