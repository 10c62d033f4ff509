"""The machine with its memory port as plain pins, for a memory outside the simulation."""

from typing import Any, Final

from amaranth.hdl import Elaboratable, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.machine.fault import KIND_BITS
from hdl.machine.jobs import ADDRESS_BITS
from hdl.machine.machine import Machine
from sim.machine.presets import MachinePreset

CONTROL_PINS: Final = {
    "i_start": In(1),
    "writable": In(ADDRESS_BITS),
    "o_done": Out(1),
    "o_error": Out(KIND_BITS),
    "o_where": Out(ADDRESS_BITS),
}
"""Pins of the machine that every memory behind it leaves alone; names are those of hdl.machine.machine."""


def control_wires(pins: Any, machine: Machine) -> list[Any]:
    """Assignments between CONTROL_PINS of a component and the machine in it."""
    return [
        getattr(machine, name).eq(getattr(pins, name))
        if member.flow == In
        else getattr(pins, name).eq(getattr(machine, name))
        for name, member in CONTROL_PINS.items()
    ]


class MachinePins(wiring.Component):
    """hdl.machine.machine with `o_valid`, `o_write`, `o_address` (in beats), `o_data` and `i_ready` for requests,
    `i_valid`, `i_data`, `i_error` for responses, `i_failed` for the error line."""

    def __init__(self, preset: MachinePreset, *, patience: int) -> None:
        self._machine = Machine(preset, patience=patience)
        bits = 8 * preset.beat_bytes
        super().__init__(
            {
                **CONTROL_PINS,
                "o_valid": Out(1),
                "o_write": Out(1),
                "o_address": Out(ADDRESS_BITS),
                "o_data": Out(bits),
                "i_ready": In(1),
                "i_valid": In(1),
                "i_data": In(bits),
                "i_error": In(1),
                "i_failed": In(1),
            }
        )

    def elaborate(self, platform: Any) -> Elaboratable:
        """Wires only."""
        m = Module()
        m.submodules.machine = machine = self._machine
        request, response = machine.memory.request, machine.memory.response
        m.d.comb += [
            *control_wires(self, machine),
            self.o_valid.eq(request.valid),
            self.o_write.eq(request.payload.write),
            self.o_address.eq(request.payload.address),
            self.o_data.eq(request.payload.data),
            request.ready.eq(self.i_ready),
            response.valid.eq(self.i_valid),
            response.payload.data.eq(self.i_data),
            response.payload.error.eq(self.i_error),
            machine.memory.error.eq(self.i_failed),
        ]
        return m
