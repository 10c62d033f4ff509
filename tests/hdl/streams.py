"""Drives and reads streams in Amaranth's simulator, with gaps and stalls."""

from collections.abc import Sequence
from typing import Any

import numpy as np

PATIENCE = 5000
"""Cycles without a transfer after which a test gives up."""


async def send(ctx: Any, port: Any, payloads: Sequence[Any], *, rng: np.random.Generator, gap: float = 0.0) -> None:
    """Transfer the payloads in order; before each, with probability `gap` per cycle, wait a cycle."""
    for payload in payloads:
        while rng.random() < gap:
            await ctx.tick()
        ctx.set(port.payload, payload)
        ctx.set(port.valid, 1)
        await ctx.tick().until(port.ready)
        ctx.set(port.valid, 0)


async def receive(
    ctx: Any, port: Any, count: int, *, rng: np.random.Generator, stall: float = 0.0, hold: int = 0
) -> list[Any]:
    """Take `count` payloads after `hold` cycles; each cycle is refused with probability `stall`."""
    if hold:
        await ctx.tick().repeat(hold)
    taken: list[Any] = []
    waited = 0
    while len(taken) < count:
        ready = rng.random() >= stall
        ctx.set(port.ready, ready)
        _, _, valid, payload = await ctx.tick().sample(port.valid, port.payload)
        waited += 1
        if ready and valid:
            taken.append(payload)
            waited = 0
        assert waited < PATIENCE, f"no transfer in {PATIENCE} cycles, {len(taken)} of {count} taken"
    ctx.set(port.ready, 0)
    return taken
