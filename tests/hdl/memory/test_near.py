# amaranth: UnusedElaboratable=no

"""Near memory against its model: reads and writes in the same cycles, with back-pressure, one of each per cycle."""

from typing import Any

import numpy as np
import pytest
from amaranth.sim import Simulator

from hdl.memory.near import NearMemory

BEAT_BITS = 128
WORDS_MAX = 10000
"""Five banks of block RAM, the last of them not full: the word is chosen in two cycles."""

Step = tuple[int | None, tuple[int, int] | None]
"""Address to read, and address and beat to write, in the same cycle."""


def run(dut: NearMemory, steps: list[Step], *, stall: float = 0.0) -> tuple[list[int], list[int]]:
    """What was read, and the cycles from each read to its word. A step whose read must wait comes later, whole."""
    rng = np.random.default_rng(4)
    found: list[int] = []
    asked: list[int] = []
    late: list[int] = []

    async def drive(ctx: Any) -> None:
        cycle, left = 0, list(steps)
        while left or len(found) < len(asked):
            read, written = left[0] if left else (None, None)
            going = read is None or bool(ctx.get(dut.read.ready))
            ctx.set(dut.read.valid, read is not None)
            ctx.set(dut.read.payload, read or 0)
            ctx.set(dut.write.valid, going and written is not None)
            assert ctx.get(dut.write.ready)
            if written is not None:
                ctx.set(dut.write.payload, {"address": written[0], "data": written[1]})
            ctx.set(dut.o.ready, bool(rng.random() >= stall))
            if ctx.get(dut.o.valid) and ctx.get(dut.o.ready):
                late.append(cycle - asked[len(found)])
                found.append(ctx.get(dut.o.payload))
            if going and left:
                left.pop(0)
                if read is not None:
                    asked.append(cycle)
            await ctx.tick()
            cycle += 1
            assert cycle < 20 * len(steps) + 100, "a read is stuck"

    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(drive)
    simulator.run()
    return found, late


def steps_of(words: int, count: int) -> list[Step]:
    """Reads and writes at random of a few words all over memory, in one cycle never of the same address."""
    rng = np.random.default_rng(words)

    def beat() -> int:
        return int.from_bytes(rng.bytes(BEAT_BITS // 8), "little")

    used = [*range(0, words, max(words // 16, 1)), words - 1]
    steps: list[Step] = [(None, (address, beat())) for address in used]
    for _ in range(count):
        read, written = (used[int(rng.integers(len(used)))] for _ in range(2))
        steps.append(
            (
                read if rng.random() < 0.7 else None,
                (written, beat()) if written != read and rng.random() < 0.7 else None,
            )
        )
    return steps


@pytest.mark.parametrize("words", [1, 50, 3000, WORDS_MAX])
@pytest.mark.parametrize("stall", [0.0, 0.6])
def test_equals_model(words: int, stall: float) -> None:
    steps = steps_of(words, 300)
    found, late = run(NearMemory(beats=words, beat_bits=BEAT_BITS), steps, stall=stall)
    assert found == NearMemory.model([0] * words, steps)
    assert min(late) >= NearMemory(beats=words, beat_bits=BEAT_BITS).latency


@pytest.mark.parametrize("words", [50, WORDS_MAX])
def test_a_read_and_a_write_per_cycle(words: int) -> None:
    dut = NearMemory(beats=words, beat_bits=BEAT_BITS)
    steps: list[Step] = [(address, (address + 25, address)) for address in range(25)]
    _, late = run(dut, steps)
    assert late == [dut.latency] * len(steps)


def test_a_read_sees_the_write_of_the_cycle_before() -> None:
    dut = NearMemory(beats=50, beat_bits=BEAT_BITS)
    found, _ = run(dut, [(None, (7, 1)), (7, (8, 2)), (8, (7, 3)), (7, None)])
    assert found == [1, 2, 3]


def test_no_beats_are_refused() -> None:
    with pytest.raises(ValueError, match=r"near_beats=0 must be in 1..16777216; nearest valid value: 1"):
        NearMemory(beats=0, beat_bits=BEAT_BITS)
