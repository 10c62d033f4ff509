"""The machine with its memory port as plain pins, for a memory outside the simulation."""

from typing import Any, Final

from amaranth.hdl import Elaboratable, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.activity.machine_parts import command_number, machine_parts
from hdl.activity.watched import Watched
from hdl.machine.fault import KIND_BITS
from hdl.machine.jobs import ADDRESS_BITS
from hdl.machine.machine import Machine
from sim.bench.source_pins import port_of_memory, source_pins
from sim.machine.presets import MachinePreset

CONTROL_PINS: Final = {
    "i_start": In(1),
    "writable": In(ADDRESS_BITS),
    "o_done": Out(1),
    "o_error": Out(KIND_BITS),
    "o_where": Out(ADDRESS_BITS),
}
"""Pins of the machine that every memory behind it leaves alone; names are those of hdl.machine.machine."""


def control_wires(pins: Any, machine: Any) -> list[Any]:
    """Assignments between CONTROL_PINS of a component and the machine in it."""
    return [
        getattr(machine, name).eq(getattr(pins, name))
        if member.flow == In
        else getattr(pins, name).eq(getattr(machine, name))
        for name, member in CONTROL_PINS.items()
    ]


WATCHED_PINS: Final = ("o_activity", "o_command")
"""Pins of a machine that is watched (hdl.activity.machine_parts): state of every unit, number of the command."""


def machine_of(preset: MachinePreset, *, patience: int, watched: bool) -> Any:
    """The machine, with WATCHED_PINS or as it is."""
    machine = Machine(preset, patience=patience)
    return Watched(machine, machine_parts, {"o_command": command_number}) if watched else machine


def watched_pins(machine: Any) -> dict[str, Any]:
    """WATCHED_PINS of a machine that has them."""
    return {name: Out(len(getattr(machine, name))) for name in WATCHED_PINS if hasattr(machine, name)}


def watched_wires(pins: Any, machine: Any) -> list[Any]:
    """Assignments for WATCHED_PINS of a component around a machine that has them."""
    return [getattr(pins, name).eq(getattr(machine, name)) for name in WATCHED_PINS if hasattr(machine, name)]


class MachinePins(wiring.Component):
    """hdl.machine.machine with `o_valid`, `o_write`, `o_address` (in beats), `o_data` and `i_ready` for requests,
    `i_valid`, `i_data`, `i_error` for responses, `i_failed` for the error line; `watched`: also WATCHED_PINS;
    `source`: also sim.bench.source_pins."""

    def __init__(self, preset: MachinePreset, *, patience: int, watched: bool = False, source: bool = False) -> None:
        self._preset = preset
        self._machine = machine_of(preset, patience=patience, watched=watched)
        bits = 8 * preset.beat_bytes
        super().__init__(
            {
                **CONTROL_PINS,
                **watched_pins(self._machine),
                **(source_pins(preset) if source else {}),
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
        memory = port_of_memory(m, self, machine, self._preset)
        request, response = memory.request, memory.response
        m.d.comb += [
            *control_wires(self, machine),
            *watched_wires(self, machine),
            self.o_valid.eq(request.valid),
            self.o_write.eq(request.payload.write),
            self.o_address.eq(request.payload.address),
            self.o_data.eq(request.payload.data),
            request.ready.eq(self.i_ready),
            response.valid.eq(self.i_valid),
            response.payload.data.eq(self.i_data),
            response.payload.error.eq(self.i_error),
            memory.error.eq(self.i_failed),
        ]
        return m
