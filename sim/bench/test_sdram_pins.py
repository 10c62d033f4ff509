# amaranth: UnusedElaboratable=no

"""The SDRAM beside the machine: cells outside the simulation, and broken rules told."""

from dataclasses import replace
from typing import Any, Final

import numpy as np
import pytest
from amaranth.sim import Simulator

from hdl.memory.port import MemoryPort
from hdl.memory.sdram.rules import Rule, violated
from sim.bench.machine_bench import MachineRun
from sim.bench.machine_layers import checked
from sim.bench.sdram_pins import CheckedSdram, from_cells, part_for, to_cells
from sim.bench.verilator import BenchError
from sim.machine.faults import Fault
from sim.machine.presets import PRESETS

PRESET: Final = replace(PRESETS["small"], memory_bytes=1 << 16)
BEATS: Final = PRESET.memory_bytes // PRESET.beat_bytes
STEP: Final = 67
"""Beats from one that is used to the next: another row, another bank."""


def used(**longer: int) -> tuple[bytes, bytes, list[int], set[Rule]]:
    """Memory before and after beats are read and the ones behind them written with 1; what was read; rules broken.

    longer: by how many cycles the model's times are longer than those that the controller keeps.
    """
    part = part_for(PRESET)
    cycles = replace(part.at(PRESET.clock_mhz), power_up=10)
    demanded = replace(cycles, **{name: getattr(cycles, name) + more for name, more in longer.items()})
    bits = 8 * PRESET.beat_bytes
    port = MemoryPort(address_bits=BEATS.bit_length(), beat_bits=bits)
    sdram = CheckedSdram(port, part, cycles, model_cycles=demanded)
    before = np.random.default_rng(3).integers(0, 256, PRESET.memory_bytes, dtype=np.uint8).tobytes()
    cells = np.frombuffer(to_cells(PRESET, before), "<u2").copy()
    found: list[int] = []
    broken: set[Rule] = set()

    async def memory(ctx: Any) -> None:
        values = (sdram.cell, sdram.cell_write, sdram.cell_word, sdram.port.response.valid, sdram.port.response.payload)
        async for _, _, cell, write, word, valid, payload in ctx.tick().sample(*values):
            ctx.set(sdram.cell_data, int(cells[cell]))
            if write:
                cells[cell] = word
            if valid:
                found.append(payload.data)

    async def drive(ctx: Any) -> None:
        request = sdram.port.request
        for address in range(0, BEATS - 1, STEP):
            for write in (0, 1):
                ctx.set(request.payload, {"address": address + write, "write": write, "data": 1})
                ctx.set(request.valid, 1)
                await ctx.tick().until(request.ready)
        ctx.set(request.valid, 0)
        await ctx.tick().repeat(100)
        broken.update(violated(ctx.get(sdram.violations)))

    simulator = Simulator(sdram)
    simulator.add_clock(1e-8)
    simulator.add_testbench(memory, background=True)
    simulator.add_testbench(drive)
    simulator.run()
    return before, from_cells(PRESET, cells.tobytes()), found, broken


def test_memory_is_what_the_port_says() -> None:
    before, after, found, broken = used()
    expected, size = bytearray(before), PRESET.beat_bytes
    places = range(0, BEATS - 1, STEP)
    assert found == [int.from_bytes(before[size * at :][:size], "little") for at in places]
    for at in places:
        expected[size * (at + 1) : size * (at + 2)] = (1).to_bytes(size, "little")
    assert after == bytes(expected)
    assert broken == set()


def test_a_part_slower_than_the_controller_believes_is_told() -> None:
    assert used(rcd=2)[-1] == {Rule.RCD}


def test_broken_rules_are_an_error_with_their_names() -> None:
    run = MachineRun(b"", 9, True, Fault.NONE, 0, 0, 0, 0, frozenset({Rule.RP, Rule.RCD}), 0.0)
    with pytest.raises(BenchError, match="rules of the SDRAM were broken: RCD, RP; "):
        checked(run)
    assert checked(replace(run, violations=frozenset())).cycles == 9
