# amaranth: UnusedElaboratable=no

"""Residual unit against sim.contract.residual: every distance of exponents, ties, saturation, stalls and cycles."""

from typing import Any

import numpy as np
import pytest
from amaranth.hdl import Module, Signal
from amaranth.sim import Simulator
from numpy.typing import NDArray

from hdl.harness import Harness
from hdl.units import build_unit
from hdl.vector.residual import ResidualAdd
from sim.contract.residual import Residual
from tests.hdl.streams import receive, send
from tests.hdl.vector.bench import play

LANES = 8
EDGES = [-32768, -32767, -1, 0, 1, 2, 3, 16384, 32766, 32767]


def operands(rng: np.random.Generator, residual: Residual, count: int) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    """Inputs (count, LANES): every pair of edges, sums near ties and near both limits, and anything."""
    pairs = [(a, b) for a in EDGES for b in EDGES]
    scale = 2.0 ** (residual.wide_exponent - residual.second_exponent)
    while len(pairs) < count * LANES:
        a = int(rng.integers(-32768, 32768)) >> int(rng.integers(0, 16))
        aims = [float(rng.integers(-20, 20)) + 0.5, 32767.5, -32768.5, float(rng.integers(-32768, 32768))]
        aim = aims[int(rng.integers(4))]
        # The second operand that brings the sum to the aim, where it has the range for that.
        b = round((aim - a * 2.0 ** (residual.first_exponent - residual.wide_exponent)) * scale)
        pairs.append((a, min(max(b, -32768), 32767)))
    values = np.array(pairs[: count * LANES], np.int16).reshape(count, LANES, 2)
    return values[..., 0], values[..., 1]


SETTINGS = [
    *[(first, second, 0) for first in (-16, -9, -1, 0) for second in (-16, -3, 0)],
    *[(0, 0, 16), (16, 0, 0), (0, 16, 3), (16, 16, 0), (5, -2, 0), (-1, 15, 0), (7, 7, 1), (-16, 0, 0)],
]


@pytest.mark.parametrize("seed", [None, 4])
def test_sums_are_the_contracts_for_every_setting_one_after_another(seed: int | None) -> None:
    """Settings arrive while results of the one before are still under way; each must use its own."""
    rng = np.random.default_rng(3)
    residuals = [Residual("test", first + 3, second + 3, wide + 3) for first, second, wide in SETTINGS]
    inputs = [operands(rng, residual, 20) for residual in residuals]
    expected = np.concatenate([ResidualAdd.model(job, *pair) for job, pair in zip(residuals, inputs, strict=True)])
    dut = ResidualAdd(lanes=LANES)
    top = Module()
    top.submodules.dut = dut
    turn = Signal(8)
    outputs: list[Any] = []
    gap = 0.3 if seed else 0.0

    def sender(number: int) -> Any:
        async def process(ctx: Any) -> None:
            rng = np.random.default_rng([seed or 0, number])
            for index, pair in enumerate(inputs):
                await ctx.tick().until(turn == index + 1)
                await send(ctx, (dut.i_first, dut.i_second)[number], pair[number].tolist(), rng=rng, gap=gap)

        return process

    async def settings(ctx: Any) -> None:
        rng = np.random.default_rng([seed or 0, 2])
        for index, residual in enumerate(residuals):
            await send(ctx, dut.i_setting, [ResidualAdd.setting(residual)], rng=rng)
            ctx.set(turn, index + 1)
            sent = 0
            while sent < len(inputs[index][0]):
                _, _, moved = await ctx.tick().sample(dut.i_first.valid & dut.i_first.ready)
                sent += moved

    async def bench(ctx: Any) -> None:
        rng = np.random.default_rng([seed or 0, 9])
        outputs.extend(await receive(ctx, dut.o, len(expected), rng=rng, stall=0.4 if seed else 0.0))

    simulator = Simulator(top)
    simulator.add_clock(1e-6)
    for process in (sender(0), sender(1), settings):
        simulator.add_testbench(process, background=True)
    simulator.add_testbench(bench)
    simulator.run()
    results = np.array([list(output) for output in outputs])
    assert np.array_equal(results, expected)
    assert {-32768, 32767} <= set(results.ravel().tolist())


def test_cycles() -> None:
    dut = ResidualAdd(lanes=2)
    values = [[index, -index] for index in range(60)]
    setting = [("i_setting", [{"first": 16, "second": 17}])]
    played = play(dut, {"i_first": values, "i_second": values}, 60, before=setting)
    assert [list(output) for output in played.outputs] == [[3 * index, -3 * index] for index in range(60)]
    assert played.entered == list(range(played.entered[0], played.entered[0] + 60))
    assert played.left == [cycle + ResidualAdd.LATENCY for cycle in played.entered]


def test_a_setting_goes_before_values_offered_with_it() -> None:
    values = [[index] for index in range(1, 21)]
    feeds: dict[str, Any] = {"i_first": values, "i_second": values, "i_setting": [{"first": 18, "second": 16}]}
    played = play(ResidualAdd(lanes=1), feeds, 20, before=[("i_setting", [{"first": 16, "second": 16}])])
    assert [list(output) for output in played.outputs] == [[5 * index] for index in range(1, 21)]


def test_a_receiver_that_waits_loses_nothing() -> None:
    values = [[index] for index in range(50)]
    setting = [("i_setting", [{"first": 16, "second": 16}])]
    played = play(ResidualAdd(lanes=1), {"i_first": values, "i_second": values}, 50, before=setting, hold=40)
    assert [list(output) for output in played.outputs] == [[2 * index] for index in range(50)]


@pytest.mark.parametrize(("lanes", "nearest"), [("0", 1), ("33", 32)])
def test_lanes_out_of_range_are_refused(lanes: str, nearest: int) -> None:
    with pytest.raises(
        Exception, match=f"unit residual: lanes={lanes} must be in 1..32; nearest valid value: {nearest}"
    ):
        build_unit("residual", {"lanes": lanes})


def test_elaborates_for_ecp5() -> None:
    text = Harness(build_unit("residual", {"lanes": "3"})[0]).rtlil()
    assert text.count("cell \\MULT18X18D") == 6
