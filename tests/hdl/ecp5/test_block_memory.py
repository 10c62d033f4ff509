# amaranth: UnusedElaboratable=no

"""Every shape of memory gives each word back, and takes the fewest block RAMs."""

from typing import Any

import numpy as np
import pytest
from amaranth.hdl import Fragment, Instance
from amaranth.sim import Simulator

from hdl.ecp5.block_memory import BlockMemory
from hdl.ecp5.platform import Ecp5Target


def read_back(dut: BlockMemory, words: dict[int, int], latency: int) -> list[int]:
    """Write words by address, then read them in the same order; what the port shows from the latency on."""
    seen: list[int] = []

    async def bench(ctx: Any) -> None:
        ctx.set(dut.write_enable, 1)
        for address, word in words.items():
            ctx.set(dut.write_address, address)
            ctx.set(dut.write_data, word)
            await ctx.tick()
        ctx.set(dut.write_enable, 0)
        for address in [*words, *[0] * latency]:
            ctx.set(dut.read_address, address)
            seen.append(ctx.get(dut.read_data))
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return seen[latency:]


@pytest.mark.parametrize(
    ("width", "depth", "block_rams", "latency"),
    [
        (16, 2048, 2, 2),  # two of 2048 x 9
        (16, 1024, 1, 2),
        (48, 512, 2, 2),
        (32, 768, 2, 2),
        (64, 512, 2, 2),
        (12, 768, 1, 2),
        (16, 4100, 5, 3),  # five of 1024 x 18 rather than six of 2048 x 9
        (8, 4096, 2, 3),
        (1, 1, 1, 2),
    ],
)
def test_words_come_back_from_every_bank(width: int, depth: int, block_rams: int, latency: int) -> None:
    dut = BlockMemory(width=width, depth=depth)
    assert (dut.block_rams, dut.latency(width=width, depth=depth)) == (block_rams, latency)
    rng = np.random.default_rng(depth)
    places = sorted({0, depth - 1, depth // 2, *rng.integers(0, depth, 20).tolist(), *range(1023, min(depth, 1026))})
    words = {place: int(rng.integers(0, 1 << min(width, 62))) for place in places}
    assert read_back(dut, words, latency) == list(words.values())


@pytest.mark.parametrize(("width", "depth"), [(72, 512), (37, 1024), (18, 2048), (5, 4096), (18, 8192)])
def test_words_come_back_after_the_latency(width: int, depth: int) -> None:
    unit = BlockMemory(width=width, depth=depth)
    rng = np.random.default_rng(depth)
    latency = BlockMemory.latency(width=width, depth=depth)
    assert latency == (3 if depth > 2048 else 2)
    addresses = rng.permutation(depth)[:120].tolist()
    words = [int.from_bytes(rng.bytes(10), "little") & ((1 << width) - 1) for _ in addresses]
    assert read_back(unit, dict(zip(addresses, words, strict=True)), latency) == words


@pytest.mark.parametrize(("width", "depth", "blocks"), [(288, 512, 8), (240, 512, 7), (72, 2048, 8), (18, 8192, 8)])
def test_a_memory_takes_as_few_blocks_as_it_fits(width: int, depth: int, blocks: int) -> None:
    def count(fragment: Any) -> int:
        here = isinstance(fragment, Instance) and fragment.type == "DP16KD"
        return here + sum(count(part) for part, *_ in fragment.subfragments)

    assert count(Fragment.get(BlockMemory(width=width, depth=depth), Ecp5Target())) == blocks


@pytest.mark.parametrize("parameter", ["width", "depth"])
def test_nothing_is_no_memory(parameter: str) -> None:
    with pytest.raises(ValueError, match=f"{parameter}=0 must be at least 1; nearest valid value: 1"):
        BlockMemory(**{"width": 4, "depth": 4, parameter: 0})
