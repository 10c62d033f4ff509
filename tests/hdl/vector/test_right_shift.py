# amaranth: UnusedElaboratable=no

"""Right shift against its model, and its model against the contract's rounding."""

from typing import Any

import numpy as np
import pytest
from amaranth.sim import Simulator

from hdl.vector.right_shift import RightShift
from sim.contract.arithmetic import round_half_even_shift


@pytest.mark.parametrize(
    ("width", "max_shift", "kept"), [(7, 6, 4), (8, 5, 8), (6, 1, 2), (32, 30, 10), (46, 44, 16), (34, 6, 18)]
)
def test_floor_and_what_was_lost(width: int, max_shift: int, kept: int) -> None:
    dut = RightShift(width=width, max_shift=max_shift, kept=kept)
    low, high = -(1 << (width - 1)), (1 << (width - 1)) - 1
    if width <= 8:
        cases = [(value, shift) for value in range(low, high + 1) for shift in range(max_shift + 1)]
    else:
        rng = np.random.default_rng(width)
        cases = []
        for shift in [*range(max_shift + 1), *rng.integers(0, max_shift + 1, 200).tolist()]:
            # Around the ends of the kept range, around ties, and anywhere.
            near = int(rng.choice([-1, 0, 1])) << (kept - 1 + shift)
            tie = (int(rng.integers(-9, 9)) << shift) + (1 << shift >> 1)
            for value in (
                near + int(rng.integers(-2, 3)),
                tie,
                tie + 1,
                tie - 1,
                int(rng.integers(low, high + 1)) >> 9,
            ):
                cases.append((min(max(value, low), high), shift))
    seen: list[tuple[int, int, int, int]] = []

    async def bench(ctx: Any) -> None:
        for value, shift in [*cases, *[(0, 0)] * dut.latency]:
            ctx.set(dut.value, value)
            ctx.set(dut.shift, shift)
            await ctx.delay(1e-8)
            seen.append((ctx.get(dut.floor), ctx.get(dut.up), ctx.get(dut.over), ctx.get(dut.negative)))
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    for (value, shift), (floor, up, over, negative) in zip(cases, seen[dut.latency :], strict=True):
        expected_floor, expected_up, expected_over, expected_negative = RightShift.model(value, shift, kept)
        assert expected_floor + expected_up == round_half_even_shift(np.array([value]), shift)[0]
        assert (over, negative) == (expected_over, expected_negative), (value, shift)
        if not expected_over:
            assert (floor, up) == (expected_floor, expected_up), (value, shift)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"width": 8, "max_shift": 8, "kept": 4}, r"max_shift=8 must be in 1..width - 1 = 7; nearest valid value: 7"),
        ({"width": 8, "max_shift": 3, "kept": 9}, r"kept=9 must be in 2..width=8; nearest valid value: 8"),
    ],
)
def test_shifts_out_of_range_are_refused(parameters: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RightShift(**parameters)
