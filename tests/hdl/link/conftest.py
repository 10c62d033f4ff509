"""Drives one component with an ``i`` and an ``o`` stream in Amaranth's simulator."""

import random

import pytest
from amaranth.sim import Simulator


@pytest.fixture
def drive():
    """``drive(dut, inputs, seed=..., quiet=...)``: the outputs, with random pauses at both ends when a seed is given.

    ``inputs`` are payloads of ``dut.i``. The run ends when all of them have been taken and nothing has come out for
    ``quiet`` cycles; it fails when an input is not taken within ``patience`` cycles.
    """

    def run(dut, inputs, *, seed=None, quiet=40, patience=5000):
        pauses = random.Random(seed)
        outputs = []
        state = {"done": False}

        def pause():
            return seed is not None and pauses.random() < 0.3

        async def feed(ctx):
            for payload in inputs:
                while pause():
                    await ctx.tick()
                ctx.set(dut.i.payload, payload)
                ctx.set(dut.i.valid, 1)
                for _ in range(patience):
                    _, _, taken = await ctx.tick().sample(dut.i.ready)
                    if taken:
                        break
                else:
                    raise AssertionError(f"input not taken in {patience} cycles")
                ctx.set(dut.i.valid, 0)
            state["done"] = True

        async def collect(ctx):
            silence = 0
            while not (state["done"] and silence > quiet):
                ctx.set(dut.o.ready, not pause())
                _, _, valid, ready, payload = await ctx.tick().sample(dut.o.valid, dut.o.ready, dut.o.payload)
                silence = 0 if valid else silence + 1
                if valid and ready:
                    outputs.append(payload)

        simulator = Simulator(dut)
        simulator.add_clock(1e-8)
        simulator.add_testbench(feed)
        simulator.add_testbench(collect)
        simulator.run()
        return outputs

    return run


@pytest.fixture
def packets_of():
    """Splits simulated token payloads into packets, ``None`` for one that closed with an error."""

    def split(tokens):
        packets, content = [], bytearray()
        for token in tokens:
            if token.end:
                packets.append(None if token.error else bytes(content))
                content.clear()
            else:
                content.append(token.data)
        return packets

    return split
