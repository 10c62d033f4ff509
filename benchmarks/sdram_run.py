# amaranth: UnusedElaboratable=no

"""The SDRAM controller on the model of its part, in Amaranth's simulator: give requests, see what becomes of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.sim import Simulator

from hdl.memory.port import MemoryPort
from hdl.memory.sdram.controller import SdramController
from hdl.memory.sdram.model import Sdram
from hdl.memory.sdram.pins import Command
from hdl.memory.sdram.rules import Rule, violated
from hdl.memory.sdram.timing import SdramCycles, SdramPart

Request = tuple[int, int | None]
"""Address in beats, and the beat to write or None to read."""


@dataclass
class Run:
    """responses: (data, error), data 0 with an error. accepted: cycles of the requests. commands: (cycle, command)."""

    responses: list[tuple[int, bool]] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)
    answered: list[int] = field(default_factory=list)
    commands: list[tuple[int, Command]] = field(default_factory=list)
    violations: set[Rule] = field(default_factory=set)
    cells: list[int] = field(default_factory=list)
    error: bool = False

    def count(self, command: Command) -> int:
        """How often the part was told this."""
        return sum(found == command for _, found in self.commands)


def run_requests(
    requests: list[Request],
    *,
    beat_bits: int = 128,
    cycles: SdramCycles,
    model_cycles: SdramCycles | None = None,
    part: SdramPart,
    gap: float = 0.0,
    seed: int = 0,
    idle: int = 300,
    cells: Sequence[int] = (),
) -> tuple[Run, SdramController]:
    """Give the requests, one after another, with gaps of probability `gap` per cycle; `idle` cycles behind the last.

    cells: numbers of those whose content is wanted.
    """
    # One address bit more than the part has, so that there are addresses outside it.
    port = MemoryPort(address_bits=(part.bytes * 8 // beat_bits).bit_length(), beat_bits=beat_bits)
    controller = SdramController(port, part, cycles)
    sdram = Sdram(part, model_cycles or cycles, burst=controller.address.burst)
    top = Module()
    top.submodules.controller, top.submodules.sdram = controller, sdram
    wiring.connect(top, controller.pins, sdram.pins)
    found, rng = Run(), np.random.default_rng(seed)

    async def drive(ctx: Any) -> None:
        request = controller.port.request
        for address, word in requests:
            while rng.random() < gap:
                await ctx.tick()
            ctx.set(request.payload, {"address": address, "write": word is not None, "data": word or 0})
            ctx.set(request.valid, 1)
            await ctx.tick().until(request.ready)
            ctx.set(request.valid, 0)
        await ctx.tick().repeat(idle)
        found.violations = violated(ctx.get(sdram.violations))
        found.cells = [ctx.get(sdram.cells.data[cell]) for cell in cells]
        found.error = bool(ctx.get(controller.port.error))

    async def watch(ctx: Any) -> None:
        port, cycle = controller.port, 0
        async for _, _, valid, payload, taken, command in ctx.tick().sample(
            port.response.valid,
            port.response.payload,
            port.request.valid & port.request.ready,
            controller.pins.command,
        ):
            if valid:
                found.responses.append((0 if payload.error else payload.data, bool(payload.error)))
                found.answered.append(cycle)
            if taken:
                found.accepted.append(cycle)
            if command:
                found.commands.append((cycle, Command(command)))
            cycle += 1

    simulator = Simulator(top)
    simulator.add_clock(7.5e-9)
    simulator.add_testbench(drive)
    simulator.add_testbench(watch, background=True)
    simulator.run()
    return found, controller
