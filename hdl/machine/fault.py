"""Why and where the machine stopped, as its parts tell each other."""

from typing import Final

from amaranth.hdl import unsigned
from amaranth.lib import data

from sim.machine.faults import Fault

KIND_BITS: Final = max(Fault).bit_length()

WHERE_BITS: Final = 27
"""A command's address in 32 bits, in units of its 32 bytes."""

FAULT_LAYOUT: Final = data.StructLayout({"kind": unsigned(KIND_BITS), "where": unsigned(WHERE_BITS)})
"""kind: sim.machine.faults.Fault, 0 for none. where: number of the command, counted from address 0."""
