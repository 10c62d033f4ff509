# amaranth: UnusedElaboratable=no

"""Tokens in any order of their channels: every length, stalls, cycles of a token, latency."""

from typing import Any

import numpy as np
import pytest
from amaranth.sim import Simulator

from hdl.harness import Harness
from hdl.machine.token_order import TokenOrder
from sim.machine.banks import banks_of
from tests.hdl.streams import receive, send

BEATS = 6


def run(
    unit: TokenOrder, order: np.ndarray, tokens: np.ndarray, gap: float, stall: float
) -> tuple[np.ndarray, list[int], list[int]]:
    """(results, cycle of every transfer in, of every transfer out)."""
    beats = order.size // unit.lanes
    values = tokens.reshape(-1, unit.lanes).tolist()
    payloads = [{"values": row, "last": (n + 1) % beats == 0} for n, row in enumerate(values)]
    columns = zip(order.tolist(), banks_of(order, unit.lanes).tolist(), strict=True)
    writes = [{"position": p, "channel": c, "bank": bank} for p, (c, bank) in enumerate(columns)]
    results: list[Any] = []
    moved: dict[str, list[int]] = {"i": [], "o": []}

    async def drive(ctx: Any) -> None:
        rng = np.random.default_rng(1)
        await send(ctx, unit.i_order, writes, rng=rng)
        await send(ctx, unit.i, payloads, rng=rng, gap=gap)

    async def take(ctx: Any) -> None:
        results.extend(await receive(ctx, unit.o, len(payloads), rng=np.random.default_rng(2), stall=stall))
        await ctx.tick().repeat(3)
        assert ctx.get(unit.o_idle)

    async def watch(ctx: Any) -> None:
        ports = unit.i.valid, unit.i.ready, unit.o.valid, unit.o.ready
        cycle = 0
        async for _, _, i_valid, i_ready, o_valid, o_ready in ctx.tick().sample(*ports):
            for name, happened in (("i", i_valid and i_ready), ("o", o_valid and o_ready)):
                if happened:
                    moved[name].append(cycle)
            cycle += 1

    simulator = Simulator(unit)
    simulator.add_clock(1e-8)
    simulator.add_testbench(drive)
    simulator.add_testbench(take)
    simulator.add_testbench(watch, background=True)
    simulator.run()
    assert [bool(result.last) for result in results] == [bool(payload["last"]) for payload in payloads]
    found = np.array([[int(value) for value in result["values"]] for result in results], np.int16)
    return found.reshape(tokens.shape), moved["i"], moved["o"]


@pytest.mark.parametrize(("lanes", "beats"), [(4, 1), (4, 2), (2, 5), (8, 6)])
@pytest.mark.parametrize(("gap", "stall"), [(0.0, 0.0), (0.3, 0.0), (0.0, 0.5)])
def test_equals_model(lanes: int, beats: int, gap: float, stall: float) -> None:
    rng = np.random.default_rng(beats)
    order = rng.permutation(beats * lanes)
    tokens = rng.integers(-(1 << 15), 1 << 15, (9, beats * lanes)).astype(np.int16)
    unit = TokenOrder(lanes=lanes, beats=BEATS)
    found, taken, given = run(unit, order, tokens, gap, stall)
    assert np.array_equal(found, TokenOrder.model(tokens, order))
    if not gap and not stall:
        assert given[0] - taken[beats - 1] == unit.latency
        assert given == list(range(given[0], given[0] + 9 * beats))


@pytest.mark.parametrize(("lanes", "beats"), [(3, 8), (4, 1), (4, 513)])
def test_refuses(lanes: int, beats: int) -> None:
    with pytest.raises(ValueError, match="nearest valid value"):
        TokenOrder(lanes=lanes, beats=beats)


def test_block_rams() -> None:
    """One a lane for the values, and three tables of 36 bits for every four lanes."""
    text = Harness(TokenOrder(lanes=8)).rtlil()
    assert text.count("cell \\DP16KD") == 8 + 3 * 2
