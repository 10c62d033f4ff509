# amaranth: UnusedElaboratable=no

"""Credit FIFO: order, promises, and what it says about itself in every cycle."""

from typing import Any

import numpy as np
import pytest
from amaranth.sim import Simulator

from hdl.vector.credit_fifo import CreditFifo


@pytest.mark.parametrize("depth", [2, 5, 16])
def test_fifo_keeps_order_and_its_promise(depth: int) -> None:
    dut = CreditFifo(8, depth=depth)
    rng = np.random.default_rng(depth)
    promised: list[int] = []
    sent: list[int] = []
    taken: list[int] = []
    returned = 0

    async def bench(ctx: Any) -> None:
        nonlocal returned
        for cycle in range(600):
            spend = int(ctx.get(dut.o_room) and rng.random() < 0.7)
            store = int(len(promised) > 0 and rng.random() < 0.6)
            ready = int(rng.random() < (0.2 if cycle % 200 < 100 else 0.9))
            word = int(rng.integers(256))
            for port, value in ((dut.spend, spend), (dut.store, store), (dut.word, word), (dut.o.ready, ready)):
                ctx.set(port, value)
            open_places = len(promised) + len(sent) - returned
            returned = len(taken)
            assert ctx.get(dut.o_room) == (open_places < depth)
            assert ctx.get(dut.o_empty) == (open_places == 0)
            assert ctx.get(dut.o.valid) == (len(sent) > len(taken))
            if ctx.get(dut.o.valid) and ready:
                taken.append(ctx.get(dut.o.payload))
            if store:
                sent.append(word)
                promised.pop()
            if spend:
                promised.append(cycle)
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    assert len(taken) > 100
    assert taken == CreditFifo.model(sent)[: len(taken)]


@pytest.mark.parametrize(("depth", "nearest"), [(1, 2), (65, 64)])
def test_fifo_depth_is_checked(depth: int, nearest: int) -> None:
    with pytest.raises(ValueError, match=f"depth={depth} must be in 2..64; nearest valid value: {nearest}"):
        CreditFifo(8, depth=depth)
