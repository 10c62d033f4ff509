"""Plays payloads into a streaming unit in Amaranth's simulator and notes the cycle of every transfer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from amaranth.hdl import Module, Signal
from amaranth.sim import Simulator

from tests.hdl.streams import PATIENCE, receive, send

GAP = 0.3
STALL = 0.4
"""Chances per cycle that a sender pauses and that the receiver refuses, where a test asks for both."""


@dataclass
class Played:
    """outputs: payloads of `o`. left: cycle of each transfer on `o`. entered: the same of the first port of `feeds`."""

    outputs: list[Any]
    entered: list[int]
    left: list[int]


def play(
    dut: Any,
    feeds: Mapping[str, Sequence[Any]],
    count: int,
    *,
    before: Sequence[tuple[str, Sequence[Any]]] = (),
    seed: int | None = None,
    hold: int = 0,
    eager: bool = False,
) -> Played:
    """Take `count` payloads of `o` while `feeds` are sent, each by port name.

    before: what is sent first, port by port, with nobody else moving. seed: of random gaps and stalls on every stream,
    None for none. hold: cycles that the receiver lets pass first. eager: the receiver takes during `before` too.
    """
    main = getattr(dut, next(iter(feeds), "o"))
    played = Played([], [], [])
    top = Module()
    top.submodules.dut = dut
    cycle, loaded = Signal(32), Signal()
    top.d.sync += cycle.eq(cycle + 1)
    chance = 0.0 if seed is None else 1.0
    sending = set(feeds)

    def sender(name: str, payloads: Sequence[Any], number: int) -> Any:
        async def process(ctx: Any) -> None:
            rng = np.random.default_rng([seed or 0, number])
            await ctx.tick().until(loaded)
            await send(ctx, getattr(dut, name), payloads, rng=rng, gap=GAP * chance)
            sending.remove(name)

        return process

    async def load(ctx: Any) -> None:
        for name, payloads in before:
            await send(ctx, getattr(dut, name), payloads, rng=np.random.default_rng(0))
        ctx.set(loaded, 1)

    async def monitor(ctx: Any) -> None:
        sampled = ctx.tick().sample(cycle, main.valid & main.ready, dut.o.valid & dut.o.ready)
        async for _, _, now, entered, left in sampled:
            if entered:
                played.entered.append(now)
            if left:
                played.left.append(now)

    async def bench(ctx: Any) -> None:
        if not eager:
            await ctx.tick().until(loaded)
        rng = np.random.default_rng([seed or 0, 99])
        played.outputs = await receive(ctx, dut.o, count, rng=rng, stall=STALL * chance, hold=hold)
        # What is sent and makes no output (parameters) is sent to its end too.
        await ctx.tick().repeat(2)
        waited = 0
        while sending:
            await ctx.tick()
            waited += 1
            assert waited < PATIENCE, f"{sorted(sending)} still sending {PATIENCE} cycles after the last output"

    simulator = Simulator(top)
    simulator.add_clock(1e-6)
    simulator.add_testbench(load, background=True)
    for number, (name, payloads) in enumerate(feeds.items()):
        simulator.add_testbench(sender(name, payloads, number), background=True)
    simulator.add_testbench(monitor, background=True)
    simulator.add_testbench(bench)
    simulator.run()
    return played
