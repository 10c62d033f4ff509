"""The machine with the SDRAM controller and the checking model of the part; the cells are outside the simulation."""

from dataclasses import replace
from typing import Any, Final

import numpy as np
from amaranth.hdl import Elaboratable, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from numpy.typing import NDArray

from hdl.machine.fault import KIND_BITS
from hdl.machine.jobs import ADDRESS_BITS
from hdl.machine.machine import Machine
from hdl.memory.sdram.address import AddressMap
from hdl.memory.sdram.controller import SdramController
from hdl.memory.sdram.model import SdramModel
from hdl.memory.sdram.rules import Rule
from hdl.memory.sdram.timing import BANKS, WORD_BITS, SdramPart, part_of
from sim.machine.presets import MachinePreset

PART: Final = "slowest"
"""A board's part is not known."""


def part_for(preset: MachinePreset) -> SdramPart:
    """A part with as many rows as the preset's memory takes, times of PART."""
    part = part_of(PART)
    return replace(part, rows=preset.memory_bytes * 8 // WORD_BITS // BANKS // part.columns)


def cell_order(preset: MachinePreset) -> NDArray[np.int64]:
    """Cells int64 (beats,) with the first word of every beat of memory; the rest follow it."""
    places = AddressMap(part_for(preset), 8 * preset.beat_bytes)
    return np.array([places.cell(beat) for beat in range(preset.memory_bytes // preset.beat_bytes)], np.int64)


def to_cells(preset: MachinePreset, memory: bytes) -> bytes:
    """Memory, shorter than the part or as long, as the part's cells hold it."""
    words = np.zeros((preset.memory_bytes // preset.beat_bytes, preset.beat_bytes // 2), "<u2")
    words.reshape(-1).view(np.uint8)[: len(memory)] = np.frombuffer(memory, np.uint8)
    cells = np.zeros(words.size, "<u2")
    cells[cell_order(preset)[:, None] + np.arange(words.shape[1])] = words
    return cells.tobytes()


def from_cells(preset: MachinePreset, cells: bytes) -> bytes:
    """Memory of the part's cells."""
    words = np.frombuffer(cells, "<u2")
    return words[cell_order(preset)[:, None] + np.arange(preset.beat_bytes // 2)].tobytes()


class SdramPins(wiring.Component):
    """Machine, controller and model on one clock, that of the preset; `cell...`, `violations`: hdl.memory.sdram.model.

    `o_failed`: the controller's error line. Other pins: sim.bench.machine_pins.
    """

    def __init__(self, preset: MachinePreset, *, patience: int) -> None:
        self._machine = Machine(preset, patience=patience)
        part = part_for(preset)
        cycles = part.at(preset.clock_mhz)
        self._controller = SdramController(self._machine.memory.signature, part, cycles)
        self._model = SdramModel(part, cycles, burst=self._controller.address.burst)
        super().__init__(
            {
                "i_start": In(1),
                "writable": In(ADDRESS_BITS),
                "o_done": Out(1),
                "o_error": Out(KIND_BITS),
                "o_where": Out(ADDRESS_BITS),
                "o_valid": Out(1),
                "o_write": Out(1),
                "o_cell": Out(ADDRESS_BITS),
                "o_cell_write": Out(1),
                "o_cell_word": Out(WORD_BITS),
                "i_cell_data": In(WORD_BITS),
                "o_violations": Out(len(Rule)),
            }
        )

    def elaborate(self, platform: Any) -> Elaboratable:
        """A chain. `o_valid`, `o_write`: a request that the controller takes."""
        m = Module()
        m.submodules.machine = machine = self._machine
        m.submodules.controller = controller = self._controller
        m.submodules.model = model = self._model
        wiring.connect(m, machine.memory, controller.port)
        wiring.connect(m, controller.pins, model.pins)
        request = machine.memory.request
        m.d.comb += [
            machine.i_start.eq(self.i_start),
            machine.writable.eq(self.writable),
            self.o_done.eq(machine.o_done),
            self.o_error.eq(machine.o_error),
            self.o_where.eq(machine.o_where),
            self.o_valid.eq(request.valid & request.ready),
            self.o_write.eq(request.payload.write),
            self.o_cell.eq(model.cell),
            self.o_cell_write.eq(model.cell_write),
            self.o_cell_word.eq(model.cell_word),
            model.cell_data.eq(self.i_cell_data),
            self.o_violations.eq(model.violations),
        ]
        return m
