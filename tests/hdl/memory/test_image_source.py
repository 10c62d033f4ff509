# amaranth: UnusedElaboratable=no

"""Image from one port, memory behind another: answers in order, whichever port is late."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from amaranth.hdl import Elaboratable, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In
from amaranth.sim import Simulator

from hdl.memory.image_source import ImageSource
from hdl.memory.on_chip import OnChipMemory
from hdl.memory.port import MemoryPort
from hdl.vector.credit_fifo import CreditFifo

BITS = 32
PORT = MemoryPort(address_bits=6, beat_bits=BITS)
IMAGE = [1000 + number for number in range(20)]
CONTENT = [7 * number for number in range(24)]


class Behind(wiring.Component):
    """The component with a memory at both ports, that of the source `source_latency` cycles away."""

    def __init__(self, *, latency: int, source_latency: int, depth: int) -> None:
        self.image_source = ImageSource(PORT, depth=depth)
        self._memory = OnChipMemory(PORT, beats=len(CONTENT), latency=latency, init=CONTENT)
        self._image = OnChipMemory(PORT, beats=len(IMAGE), latency=source_latency, init=IMAGE)
        super().__init__({"port": In(PORT)})

    def elaborate(self, platform: Any) -> Elaboratable:
        m = Module()
        m.submodules.image_source = unit = self.image_source
        m.submodules.memory = memory = self._memory
        m.submodules.image = image = self._image
        wiring.connect(m, wiring.flipped(self.port), unit.port)
        wiring.connect(m, unit.memory, memory.port)
        wiring.connect(m, image.port.response, unit.i)
        m.d.comb += [
            unit.image.eq(len(IMAGE)),
            image.port.request.valid.eq(unit.source.valid),
            unit.source.ready.eq(image.port.request.ready),
            image.port.request.payload.address.eq(unit.source.payload),
        ]
        return m


def run(dut: Behind, requests: Sequence[tuple[int, int | None]], *, busy: float = 1.0) -> tuple[list[int], int, bool]:
    """(what is read, cycles from the first request to the last response, the error line)."""
    rng = np.random.default_rng(1)
    found: list[int] = []
    reads = sum(word is None for _, word in requests)
    cycles = 0
    failed = False

    async def drive(ctx: Any) -> None:
        nonlocal failed
        for address, word in requests:
            while rng.random() >= busy:
                await ctx.tick()
            ctx.set(dut.port.request.payload, {"address": address, "write": word is not None, "data": word or 0})
            ctx.set(dut.port.request.valid, 1)
            await ctx.tick().until(dut.port.request.ready)
            ctx.set(dut.port.request.valid, 0)
        await ctx.tick().repeat(40)
        failed = bool(ctx.get(dut.port.error))

    async def watch(ctx: Any) -> None:
        nonlocal cycles
        ctx.set(dut.port.response.ready, 1)
        async for _, _, valid, payload in ctx.tick().sample(dut.port.response.valid, dut.port.response.payload):
            if valid:
                assert not payload.error
                found.append(payload.data)
            cycles += len(found) < reads

    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(drive)
    simulator.add_testbench(watch, background=True)
    simulator.run()
    return found, cycles, failed


def mixed(seed: int, count: int) -> list[tuple[int, int | None]]:
    """Runs of requests to the image or to the memory, which is also written."""
    rng = np.random.default_rng(seed)
    requests: list[tuple[int, int | None]] = []
    while len(requests) < count:
        image = rng.random() < 0.5
        for _ in range(rng.integers(1, 6)):
            if image:
                requests.append((int(rng.integers(len(IMAGE))), None))
            else:
                word = int(rng.integers(1 << BITS)) if rng.random() < 0.4 else None
                requests.append((len(IMAGE) + int(rng.integers(len(CONTENT))), word))
    return requests


@pytest.mark.parametrize(("latency", "source_latency"), [(1, 9), (9, 1), (4, 4)])
@pytest.mark.parametrize("busy", [1.0, 0.5])
def test_equals_model(latency: int, source_latency: int, busy: float) -> None:
    requests = mixed(latency, 300)
    found, _, failed = run(Behind(latency=latency, source_latency=source_latency, depth=4), requests, busy=busy)
    assert found == ImageSource.model(IMAGE, list(CONTENT), requests)
    assert not failed


def test_one_request_per_cycle() -> None:
    """The docstring's depth for a latency of 9: the first beat comes after 11 cycles, 99 more follow without a gap."""
    requests = [(number % 40, None) for number in range(100)]
    found, cycles, _ = run(Behind(latency=5, source_latency=9, depth=9 + 1 + CreditFifo.TURNAROUND), requests)
    assert found == ImageSource.model(IMAGE, list(CONTENT), requests)
    assert cycles == 99 + 9 + 2


def test_a_write_below_the_image_changes_nothing_and_sets_the_line() -> None:
    requests = [(3, 5), (3, None), (len(IMAGE) + 3, None)]
    found, _, failed = run(Behind(latency=1, source_latency=1, depth=4), requests)
    assert found == [IMAGE[3], CONTENT[3]]
    assert failed


@pytest.mark.parametrize(("depth", "nearest"), [(1, 2), (33, 32)])
def test_a_depth_out_of_range_is_refused(depth: int, nearest: int) -> None:
    with pytest.raises(ValueError, match=rf"depth={depth} must be in 2..32; nearest valid value: {nearest}"):
        ImageSource(PORT, depth=depth)
