# amaranth: UnusedElaboratable=no

"""Packed codes byte by byte: one plane and two, tiles that are not full, changes between them, stalls, cycles."""

from typing import Any

import numpy as np
import pytest
from amaranth.hdl import Module, Signal
from amaranth.sim import Simulator
from numpy.typing import NDArray

from hdl.machine.code_packer import LANES, CodePacker
from tests.hdl.streams import receive, send

Batch = tuple[int, NDArray[np.uint8]]
"""Planes, and codes (tokens, positions)."""


def run(
    lanes: int, batches: list[Batch], *, gap: float = 0.0, stall: float = 0.0, hold: int = 0
) -> tuple[list[int], list[int]]:
    """Gives planes and codes one after the other, as one reader does, and compares every byte.

    Returns the cycles of the transfers on `i` and on `o`.
    """
    rng = np.random.default_rng(1)
    dut = CodePacker(lanes=lanes)
    top = Module()
    top.submodules.dut = dut
    cycle = Signal(32)
    top.d.sync += cycle.eq(cycle + 1)
    entered: list[int] = []
    left: list[int] = []
    expected = b"".join(CodePacker.model(codes, planes).tobytes() for planes, codes in batches)
    found: list[bytes] = []

    async def feed(ctx: Any) -> None:
        for planes, codes in batches:
            await send(ctx, dut.i_planes, [planes], rng=rng, gap=gap)
            for token in codes:
                words = token.reshape(-1, lanes).tolist()
                payloads = [{"codes": word, "last": int(n == len(words) - 1)} for n, word in enumerate(words)]
                await send(ctx, dut.i, payloads, rng=rng, gap=gap)

    async def take(ctx: Any) -> None:
        count = len(expected) // (2 * lanes)
        taken = await receive(ctx, dut.o, count, rng=np.random.default_rng(2), stall=stall, hold=hold)
        found.extend(beat.to_bytes(2 * lanes, "little") for beat in taken)
        ctx.set(dut.o.ready, 1)
        for _ in range(2 * 64 // lanes):
            assert not ctx.get(dut.o.valid)
            await ctx.tick()
        assert ctx.get(dut.o_idle)

    async def watch(ctx: Any) -> None:
        waiting = None
        while True:
            _, _, now, into, valid, ready, beat, idle = await ctx.tick().sample(
                cycle, dut.i.valid & dut.i.ready, dut.o.valid, dut.o.ready, dut.o.payload, dut.o_idle
            )
            assert waiting in (None, (valid, beat)), "a beat that waits must stay"
            assert not (valid and idle)
            waiting = (valid, beat) if valid and not ready else None
            if into:
                entered.append(now)
            if valid and ready:
                left.append(now)

    simulator = Simulator(top)
    simulator.add_clock(1e-6)
    simulator.add_testbench(feed, background=True)
    simulator.add_testbench(watch, background=True)
    simulator.add_testbench(take)
    simulator.run()
    assert b"".join(found) == expected
    return entered, left


def random_codes(seed: int, tokens: int, positions: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (tokens, positions)).astype(np.uint8)


def mixed(lanes: int) -> list[Batch]:
    """Whole tiles, parts of tiles, a single transfer, one plane and two in turn."""
    shapes = [(2, 3, 64), (1, 2, 128), (1, 3, lanes), (2, 2, 64 + lanes), (2, 1, 192 - lanes), (1, 2, 16), (2, 2, 32)]
    return [(planes, random_codes(n, tokens, positions)) for n, (planes, tokens, positions) in enumerate(shapes)]


@pytest.mark.parametrize("lanes", LANES)
def test_bytes_of_every_width(lanes: int) -> None:
    run(lanes, mixed(lanes))


@pytest.mark.parametrize(
    "pressure",
    [{"gap": 0.3}, {"stall": 0.8}, {"gap": 0.3, "stall": 0.5}, {"hold": 60}],
    ids=["gaps", "slow", "both", "held"],
)
def test_bytes_under_back_pressure(pressure: dict[str, Any]) -> None:
    run(8, mixed(8), **pressure)


def test_the_place_of_every_nibble() -> None:
    codes = np.zeros((1, 72), np.uint8)
    codes[0, [0, 1, 63, 64, 71]] = [0xA1, 0xB2, 0xC3, 0xD4, 0xE5]
    two, one = CodePacker.model(codes, 2)[0], CodePacker.model(codes, 1)[0]
    assert (two.size, one.size) == (128, 64)
    assert {place: value for place, value in enumerate(two.tolist()) if value} == {
        0: 0xBA, 31: 0xC0, 32: 0x21, 63: 0x30, 64: 0x0D, 67: 0xE0, 96: 0x04, 99: 0x50
    }  # fmt: skip
    assert {place: value for place, value in enumerate(one.tolist()) if value} == {
        0: 0x21, 31: 0x30, 32: 0x04, 35: 0x50
    }  # fmt: skip


@pytest.mark.parametrize("lanes", LANES)
def test_one_transfer_per_cycle_and_the_latency(lanes: int) -> None:
    entered, left = run(lanes, [(2, random_codes(3, 3, 256))])
    assert entered[-1] - entered[0] == len(entered) - 1
    words = 64 // lanes
    assert left[0] - entered[words - 1] == CodePacker.LATENCY
    per_tile = 2 * 16 // lanes
    assert [left[n] - left[0] for n in range(0, len(left), per_tile)] == [n * words for n in range(12)]


def test_a_tile_that_is_not_full_takes_as_long_as_one_that_is() -> None:
    entered, _ = run(8, [(2, random_codes(4, 4, 80))])
    assert entered[10] - entered[0] == 16


@pytest.mark.parametrize("lanes", [1, 32])
def test_lanes_out_of_range_are_refused(lanes: int) -> None:
    with pytest.raises(ValueError, match=rf"lanes={lanes} must be one of \(2, 4, 8, 16\); nearest valid value"):
        CodePacker(lanes=lanes)
