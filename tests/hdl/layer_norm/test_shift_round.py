# amaranth: UnusedElaboratable=no

"""Shifts of every size, at every kind of edge, against the contract's rounding and saturation."""

from typing import Any

import numpy as np
import pytest
from amaranth.sim import Simulator

from hdl.layer_norm.shift_round import ShiftRound

SHAPES = [(45, 30, 6), (33, 40, 0), (17, 1, 0), (20, 63, 3), (32, 20, 15), (60, 17, 3), (38, 16, 0)]


def edges(width: int, places: int) -> list[int]:
    """Values of `width` bits at ties, next to ties and around the limits of 16 bits, after a shift by `places`."""
    half = 1 << places >> 1
    floors = [0, 1, 2, 3, -1, -2, 5, 32766, 32767, 32768, 32769, -32767, -32768, -32769, 65535, 65536, -65536, -65537]
    values = [(floor << places) + rest for floor in floors for rest in (0, 1, half - 1, half, half + 1, -1)]
    top = 1 << (width - 1)
    values += [top - 1, -top, top >> 1, -top >> 1]
    return [value for value in values if -top <= value < top]


@pytest.mark.parametrize(("width", "max_shift", "offset"), SHAPES)
def test_every_shift_equals_the_model(width: int, max_shift: int, offset: int) -> None:
    dut = ShiftRound(width=width, max_shift=max_shift, offset=offset)
    rng = np.random.default_rng(width)
    cases = []
    for shift in range(max_shift + 1):
        places = min(shift + offset, 61)
        values = edges(width, places)
        # Random values whose results are of every size, not only saturated ones.
        values += [
            int(rng.integers(-(1 << (width - 1)), 1 << (width - 1))) >> int(rng.integers(width)) for _ in "12345"
        ]
        cases += [(value, shift) for value in values]
    rng.shuffle(cases)  # neighbours in the pipeline have different shifts
    results: list[int] = []

    async def bench(ctx: Any) -> None:
        for value, shift in [*cases, *[(0, 0)] * ShiftRound.LATENCY]:
            ctx.set(dut.a, int(value))
            ctx.set(dut.shift, int(shift))
            results.append(ctx.get(dut.o))
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    expected = [dut.model(int(value), min(int(shift), 61 - offset)) for value, shift in cases]
    assert results[ShiftRound.LATENCY :] == expected
    assert {-32768, 0} <= set(expected)


@pytest.mark.parametrize(
    ("parameter", "value", "message"),
    [
        ("width", 16, "width=16 must be in 17..60; nearest valid value: 17"),
        ("max_shift", 64, "max_shift=64 must be in 1..63; nearest valid value: 63"),
        ("offset", -1, "offset=-1 must be in 0..15; nearest valid value: 0"),
        ("width", 20, "offset=9 must be in 0..3; nearest valid value: 3"),
    ],
)
def test_a_parameter_out_of_range_is_refused(parameter: str, value: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ShiftRound(**{"width": 40, "max_shift": 5, "offset": 9, parameter: value})
