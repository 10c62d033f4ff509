"""Records of ports, bits on the wire, onto the payloads of the units."""

from collections.abc import Iterator
from typing import Any, Final

from amaranth.hdl import Signal, Value
from amaranth.lib import data

from sim.machine.ports import RECORDS, Port

SINGULAR: Final = {"nibbles": "nibble"}
"""Arrays of the units whose elements have another name on the wire."""


def assign_record(port: Port, payload: Any, wire: Signal) -> list[Any]:
    """Assignments of the fields of a port's record, found in the bits of `wire`, to a unit's payload.

    Fields of the wire are cut to the width that the unit has, or extended; those that the unit does not have are left
    out. Raises KeyError for a field of the unit that the record lacks.
    """
    places: dict[str, Any] = {}
    offset = 0
    for field in RECORDS[port]:
        bits = wire[offset : offset + field.bits]
        places[field.name] = bits.as_signed() if field.signed else bits
        offset += field.bits
    if not isinstance(payload, data.View):
        (only,) = places.values()
        return [payload.eq(only)]
    return [target.eq(places[name]) for name, target in _leaves("", payload)]


def _leaves(name: str, payload: Any) -> Iterator[tuple[str, Value]]:
    """(name on the wire, value) of every field, of structures within structures by the innermost name."""
    if not isinstance(payload, data.View):
        yield name, payload
        return
    layout = payload.shape()
    if isinstance(layout, data.ArrayLayout):
        for index in range(layout.length):
            yield f"{SINGULAR.get(name, name)}{index}", payload[index]
        return
    for member in layout.members:
        yield from _leaves(member, payload[member])
