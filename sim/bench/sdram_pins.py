"""The machine with the SDRAM controller and the checking model of the part; the cells are outside the simulation."""

from dataclasses import replace
from typing import Any, Final

import numpy as np
from amaranth.hdl import Elaboratable, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from numpy.typing import NDArray

from hdl.machine.jobs import ADDRESS_BITS
from hdl.memory.port import MemoryPort
from hdl.memory.sdram.address import AddressMap
from hdl.memory.sdram.controller import SdramController
from hdl.memory.sdram.model import SdramModel
from hdl.memory.sdram.rules import Rule
from hdl.memory.sdram.timing import BANKS, WORD_BITS, SdramCycles, SdramPart, part_of
from sim.bench.machine_pins import CONTROL_PINS, control_wires, machine_of, watched_pins, watched_wires
from sim.bench.source_pins import port_of_memory, source_pins
from sim.machine.presets import MachinePreset

PART: Final = "slowest"
"""A board's part is not known."""


def part_for(preset: MachinePreset) -> SdramPart:
    """A part with as many rows as the preset's memory takes, times of PART."""
    part = part_of(PART)
    return replace(part, rows=preset.memory_bytes * 8 // WORD_BITS // BANKS // part.columns)


def row_order(preset: MachinePreset) -> NDArray[np.int64]:
    """Which row of the part, counted bank by bank, holds a row's worth of memory: int64 (rows of all banks,)."""
    part = part_for(preset)
    places = AddressMap(part, 8 * preset.beat_bytes)
    beats = part.columns * WORD_BITS // 8 // preset.beat_bytes
    return np.array([places.cell(beats * row) // part.columns for row in range(BANKS * part.rows)], np.int64)


def to_cells(preset: MachinePreset, memory: bytes) -> bytes:
    """Memory, shorter than the part or as long, as the part's cells hold it."""
    order = row_order(preset)
    whole = np.zeros(preset.memory_bytes, np.uint8)
    whole[: len(memory)] = np.frombuffer(memory, np.uint8)
    cells = np.empty((order.size, preset.memory_bytes // order.size), np.uint8)
    cells[order] = whole.reshape(cells.shape)
    return cells.tobytes()


def from_cells(preset: MachinePreset, cells: bytes) -> bytes:
    """Memory of the part's cells."""
    order = row_order(preset)
    return np.frombuffer(cells, np.uint8).reshape(order.size, -1)[order].tobytes()


class CheckedSdram(wiring.Component):
    """Controller and model behind a memory port; `cell...`, `violations`: hdl.memory.sdram.model.

    cycles: times that the controller keeps. model_cycles: those that the model checks, if they are others.
    """

    def __init__(
        self, port: MemoryPort, part: SdramPart, cycles: SdramCycles, *, model_cycles: SdramCycles | None = None
    ) -> None:
        self._controller = SdramController(port, part, cycles)
        self._model = SdramModel(part, model_cycles or cycles, burst=self._controller.address.burst)
        super().__init__(
            {
                "port": In(port),
                "cell": Out(ADDRESS_BITS),
                "cell_write": Out(1),
                "cell_word": Out(WORD_BITS),
                "cell_data": In(WORD_BITS),
                "violations": Out(len(Rule)),
            }
        )

    def elaborate(self, platform: Any) -> Elaboratable:
        """Wires only."""
        m = Module()
        m.submodules.controller = controller = self._controller
        m.submodules.model = model = self._model
        wiring.connect(m, wiring.flipped(self.port), controller.port)
        wiring.connect(m, controller.pins, model.pins)
        m.d.comb += [
            self.cell.eq(model.cell),
            self.cell_write.eq(model.cell_write),
            self.cell_word.eq(model.cell_word),
            model.cell_data.eq(self.cell_data),
            self.violations.eq(model.violations),
        ]
        return m


class SdramPins(wiring.Component):
    """Machine and CheckedSdram on one clock, that of the preset. Other pins: sim.bench.machine_pins
    and, with a `source`, sim.bench.source_pins.

    `o_valid`, `o_write`: a request that the controller takes.
    """

    def __init__(self, preset: MachinePreset, *, patience: int, watched: bool = False, source: bool = False) -> None:
        self._preset = preset
        self._machine = machine_of(preset, patience=patience, watched=watched)
        part = part_for(preset)
        self._sdram = CheckedSdram(self._machine.memory.signature, part, part.at(preset.clock_mhz))
        super().__init__(
            {
                **CONTROL_PINS,
                **watched_pins(self._machine),
                **(source_pins(preset) if source else {}),
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
        """Wires only."""
        m = Module()
        m.submodules.machine = machine = self._machine
        m.submodules.sdram = sdram = self._sdram
        memory = port_of_memory(m, self, machine, self._preset)
        request = memory.request
        wiring.connect(m, memory, sdram.port)
        m.d.comb += [
            *control_wires(self, machine),
            *watched_wires(self, machine),
            self.o_valid.eq(request.valid & request.ready),
            self.o_write.eq(request.payload.write),
            self.o_cell.eq(sdram.cell),
            self.o_cell_write.eq(sdram.cell_write),
            self.o_cell_word.eq(sdram.cell_word),
            sdram.cell_data.eq(self.i_cell_data),
            self.o_violations.eq(sdram.violations),
        ]
        return m
