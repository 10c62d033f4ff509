import numpy as np
import pytest

from sim.contract.wide import Wide, finish_wide, to_wide


def test_real_values_are_values_times_the_power_of_two() -> None:
    x = Wide(np.array([-32768, -1, 0, 5, 32767], np.int16), -3)
    assert x.real().dtype == np.float32
    assert x.real().tolist() == [-4096.0, -0.125, 0.0, 0.625, 4095.875]
    assert x.with_values(np.array([8], np.int16)).real().tolist() == [1.0]


def test_every_wide_number_survives_the_way_to_real_and_back() -> None:
    values = np.arange(-(1 << 15), 1 << 15).astype(np.int16)
    for exponent in (-20, 0, 3):
        np.testing.assert_array_equal(to_wide(Wide(values, exponent).real(), exponent).values, values)


def test_real_values_round_half_to_even_and_saturate() -> None:
    real = np.array([0.25, 0.75, -0.25, 1e9, -1e9, 16383.9], np.float32)
    assert to_wide(real, -1).values.tolist() == [0, 2, 0, 32767, -32768, 32767]


@pytest.mark.parametrize("shift", [-20, -3, 0, 1, 7, 40])
def test_finishing_equals_exact_rational_rounding(shift: int) -> None:
    rng = np.random.default_rng(0)
    value = rng.integers(-(1 << 41), 1 << 41, 2000) >> rng.integers(0, 41, 2000)
    value = np.concatenate([value, np.arange(-9, 10) << max(shift - 1, 0)])
    # A quotient by a power of two is exact in float64, and so is Python's rounding of it to even.
    exact = [max(-32768, min(32767, round(int(v) / 2.0**shift))) for v in value]
    assert finish_wide(value, shift).tolist() == exact
