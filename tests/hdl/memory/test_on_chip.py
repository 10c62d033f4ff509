# amaranth: UnusedElaboratable=no

"""The on-chip memory against its model: random requests, out of range included."""

from typing import Any

import numpy as np
import pytest
from amaranth.sim import Simulator

from hdl.memory.on_chip import OnChipMemory
from hdl.memory.port import MemoryPort

BEAT_BITS = 32


def requests(seed: int, count: int, limit: int) -> list[tuple[int, int | None]]:
    rng = np.random.default_rng(seed)
    words = rng.integers(1 << BEAT_BITS, size=count)
    return [(int(rng.integers(limit)), int(word) if rng.random() < 0.5 else None) for word in words]


@pytest.mark.parametrize(("latency", "limit"), [(1, 32), (5, 32), (3, 20)])
def test_equals_model(latency: int, limit: int) -> None:
    todo = requests(latency, 200, limit)
    memory = OnChipMemory(MemoryPort(address_bits=5, beat_bits=BEAT_BITS), beats=20, latency=latency, init=[7, 8, 9])
    content = [7, 8, 9, *[0] * 17]
    expected = OnChipMemory.model(content, todo)
    rng = np.random.default_rng(latency)
    found: list[tuple[int, bool]] = []
    late: list[int] = []

    async def drive(ctx: Any) -> None:
        for address, word in todo:
            while rng.random() < 0.3:
                await ctx.tick()
            ctx.set(memory.port.request.payload, {"address": address, "write": word is not None, "data": word or 0})
            ctx.set(memory.port.request.valid, 1)
            await ctx.tick().until(memory.port.request.ready)
            ctx.set(memory.port.request.valid, 0)
        await ctx.tick().repeat(latency + 1)

    async def watch(ctx: Any) -> None:
        port, cycle = memory.port, 0
        asked: list[int] = []
        async for _, _, valid, payload, request, write in ctx.tick().sample(
            port.response.valid, port.response.payload, port.request.valid, port.request.payload.write
        ):
            if valid:
                error = bool(payload.error)
                found.append((0 if error else payload.data, error))
                late.append(cycle - asked.pop(0))
            if request and not write:
                asked.append(cycle)
            cycle += 1

    simulator = Simulator(memory)
    simulator.add_clock(1e-8)
    simulator.add_testbench(drive)
    simulator.add_testbench(watch, background=True)
    simulator.run()
    assert found == expected
    assert set(late) == {latency}


def test_refused_write_sets_the_line() -> None:
    memory = OnChipMemory(MemoryPort(address_bits=5, beat_bits=BEAT_BITS), beats=20)

    async def drive(ctx: Any) -> None:
        ctx.set(memory.port.request.payload, {"address": 19, "write": 1, "data": 1})
        ctx.set(memory.port.request.valid, 1)
        await ctx.tick().repeat(2)
        assert not ctx.get(memory.port.error)
        ctx.set(memory.port.request.payload, {"address": 20, "write": 1, "data": 1})
        await ctx.tick()
        ctx.set(memory.port.request.valid, 0)
        await ctx.tick().repeat(3)
        assert ctx.get(memory.port.error)

    simulator = Simulator(memory)
    simulator.add_clock(1e-8)
    simulator.add_testbench(drive)
    simulator.run()


@pytest.mark.parametrize(("beats", "latency"), [(33, 1), (0, 1), (4, 0)])
def test_refuses(beats: int, latency: int) -> None:
    with pytest.raises(ValueError, match="nearest valid value"):
        OnChipMemory(MemoryPort(address_bits=5, beat_bits=BEAT_BITS), beats=beats, latency=latency)
