"""Drives and reads streams in Amaranth's simulator, with gaps and stalls."""

from collections.abc import Sequence
from typing import Any

import numpy as np


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
    while len(taken) < count:
        ready = rng.random() >= stall
        ctx.set(port.ready, ready)
        _, _, valid, payload = await ctx.tick().sample(port.valid, port.payload)
        if ready and valid:
            taken.append(payload)
    ctx.set(port.ready, 0)
    return taken
