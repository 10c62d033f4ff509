import numpy as np
import pytest

from sim.contract.arithmetic import round_half_even_shift, saturate, signed_limits


@pytest.mark.parametrize("shift", [0, 1, 2, 8, 16])
def test_rounding_equals_the_exact_fraction(shift: int) -> None:
    value = np.concatenate([np.arange(-(1 << 10), 1 << 10), np.arange(-40, 40) << max(shift - 1, 0)]).astype(np.int64)
    expected = [round(int(v) / 2**shift) for v in value]  # Python rounds half to even; the quotients are exact
    assert round_half_even_shift(value, shift).tolist() == expected


def test_ties_go_to_the_even_neighbour() -> None:
    ties = np.array([-5, -3, -1, 1, 3, 5], np.int64) << 15
    assert round_half_even_shift(ties, 16).tolist() == [-2, -2, 0, 0, 2, 2]


def test_rounding_is_exact_beyond_float64() -> None:
    value = (1 << 61) + (1 << 15) + 1
    assert round_half_even_shift(np.array([value], np.int64), 16).tolist() == [(1 << 45) + 1]


@pytest.mark.parametrize("bits", [4, 16, 36])
def test_saturation_keeps_what_fits_and_clamps_the_rest(bits: int) -> None:
    low, high = signed_limits(bits)
    assert (low, high) == (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    value = np.array([low - 1, low, -1, 0, 1, high, high + 1], np.int64)
    assert saturate(value, bits).tolist() == [low, low, -1, 0, 1, high, high]
