# amaranth: UnusedElaboratable=no

"""Pixels of keys word by word: maps narrower and wider than a word, rewinding, starting again."""

from typing import Any

import pytest
from amaranth.sim import Simulator

from hdl.attention.key_walk import SIDE_MAX, KeyWalk


@pytest.mark.parametrize("lanes", [1, 2, 8, 32])
def test_places_of_every_lane(lanes: int) -> None:
    dut = KeyWalk(lanes=lanes)

    async def run(ctx: Any) -> None:
        for columns in (1, 2, 3, 7, 8, 9, 14, 33, 63, 64):
            ctx.set(dut.columns, columns)
            ctx.set(dut.start, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            waited = 0
            while ctx.get(dut.o_busy):
                await ctx.tick()
                waited += 1
            assert waited == lanes + KeyWalk.PREPARATION
            words = -(-SIDE_MAX * columns // lanes)
            # Five words, then all of them.
            walks = [range(min(words, 5)), range(words)]
            for number, last in [(number, numbers[-1]) for numbers in walks for number in numbers]:
                found = list(zip(ctx.get(dut.row), ctx.get(dut.column), strict=True))
                wanted = KeyWalk.model(number, lanes=lanes, columns=columns)
                inside = sum(row < SIDE_MAX for row, _ in wanted)
                assert found[:inside] == wanted[:inside], (columns, number)
                ctx.set(dut.step, 1)
                ctx.set(dut.rewind, number == last)
                await ctx.tick()
                ctx.set(dut.step, 0)

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(run)
    simulator.run()


def test_lanes_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"lanes=65 must be in 1..64; nearest valid value: 64"):
        KeyWalk(lanes=65)
