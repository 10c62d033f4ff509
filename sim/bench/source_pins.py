"""The pins of a port that has a program's image, of a machine in front of any memory."""

from typing import Any

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.machine.jobs import ADDRESS_BITS
from hdl.memory.image_source import ImageSource
from sim.machine.presets import MachinePreset


def source_pins(preset: MachinePreset) -> dict[str, Any]:
    """`o_source_valid`, `o_source_address` (in beats) and `i_source_ready` for requests, `i_source_valid` and
    `i_source_data` for responses."""
    return {
        "o_source_valid": Out(1),
        "o_source_address": Out(ADDRESS_BITS),
        "i_source_ready": In(1),
        "i_source_valid": In(1),
        "i_source_data": In(8 * preset.beat_bytes),
    }


def port_of_memory(m: Module, pins: Any, machine: Any, preset: MachinePreset) -> Any:
    """The port behind which external memory is: the machine's, or where `pins` have a source that of an ImageSource
    in front, which has whatever lies below `writable`."""
    if not hasattr(pins, "o_source_valid"):
        return machine.memory
    m.submodules.image_source = unit = ImageSource(machine.memory.signature)
    wiring.connect(m, machine.memory, unit.port)
    m.d.comb += [
        unit.image.eq(pins.writable >> (preset.beat_bytes.bit_length() - 1)),
        pins.o_source_valid.eq(unit.source.valid),
        pins.o_source_address.eq(unit.source.payload),
        unit.source.ready.eq(pins.i_source_ready),
        unit.i.valid.eq(pins.i_source_valid),
        unit.i.payload.data.eq(pins.i_source_data),
    ]
    return unit.memory
