"""Plays streams of payloads into a component in Amaranth's simulator, all at once, and checks the rules of streams."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from amaranth.lib import wiring
from amaranth.sim import Simulator

from tests.hdl.streams import receive, send

QUIET_CYCLES = 60
"""Cycles after the last payload in which nothing more may come."""


def play(
    dut: wiring.Component,
    sources: Mapping[str, Sequence[Any]],
    *,
    outputs: int,
    before: Mapping[str, Sequence[Any]] | None = None,
    seed: int = 0,
    gap: float = 0.0,
    stall: float = 0.0,
    hold: int = 0,
) -> tuple[list[Any], list[int]]:
    """Send `before`, then all `sources` side by side, take `outputs` payloads of `o`.

    Returns the payloads and the cycles of their transfers. gap, stall: probabilities per cycle that a source or the
    sink holds back. hold: cycles before the sink takes anything. Checks that a payload waits unchanged until it is
    taken, that nothing comes after the last one, and that o_idle is 0 while a payload waits and 1 in the end.
    """
    rng = np.random.default_rng(seed)
    taken: list[Any] = []
    cycles: list[int] = []
    ready: list[bool] = []

    def feeder(name: str, payloads: Sequence[Any]) -> Any:
        own = rng.spawn(1)[0]

        async def feed(ctx: Any) -> None:
            while not ready:
                await ctx.tick()
            await send(ctx, getattr(dut, name), payloads, rng=own, gap=gap)

        return feed

    async def tables(ctx: Any) -> None:
        for name, payloads in (before or {}).items():
            await send(ctx, getattr(dut, name), payloads, rng=rng)
        ready.append(True)

    async def watch(ctx: Any) -> None:
        port: Any = dut.o
        cycle, waiting = 0, None
        while True:
            valid, payload = ctx.get(port.valid), ctx.get(_plain(port.payload))
            assert waiting in (None, (valid, payload)), "a payload that waits must stay"
            assert not (valid and ctx.get(dut.o_idle)), "idle while a payload waits"
            waiting = (valid, payload) if valid and not ctx.get(port.ready) else None
            if valid and waiting is None:
                cycles.append(cycle)
            await ctx.tick()
            cycle += 1

    async def collect(ctx: Any) -> None:
        port: Any = dut.o
        taken.extend(await receive(ctx, port, outputs, rng=rng, stall=stall, hold=hold))
        ctx.set(port.ready, 1)
        await ctx.tick().repeat(QUIET_CYCLES)
        assert ctx.get(dut.o_idle)

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(tables, background=True)
    for name, payloads in sources.items():
        simulator.add_testbench(feeder(name, payloads), background=True)
    simulator.add_testbench(collect)
    # Last, so that it sees what the others have set for the cycle.
    simulator.add_testbench(watch, background=True)
    simulator.run()
    assert len(cycles) == len(taken) == outputs
    return taken, cycles


def _plain(payload: Any) -> Any:
    return payload.as_value() if hasattr(payload, "as_value") else payload
