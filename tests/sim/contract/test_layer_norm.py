import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from sim.contract.errors import UserError
from sim.contract.layer_norm import LayerNorm, reciprocal_root
from sim.contract.wide import Wide, finish_wide

ROOT_ERROR = 2.0**-14
"""Stated relative error of the reciprocal square root."""


def norm(channels: int, *, gain: int = 1 << 10, bias: int = 0, shift: int = 10, epsilon: int = 1) -> LayerNorm:
    return LayerNorm(
        name="norm",
        input_exponent=-6,
        wide_exponent=-10,
        epsilon=epsilon,
        gain=np.full(channels, gain, np.int16),
        bias=np.full(channels, bias, np.int32),
        shift=shift,
    )


def test_reciprocal_root_keeps_its_error_over_every_mantissa() -> None:
    mantissa = np.arange(1 << 16, 1 << 18, dtype=np.int64)
    root, s = reciprocal_root(mantissa)
    assert (s == 8).all() and root.min() > 0 and root.max() < 1 << 16
    error = root / 2.0**24 * np.sqrt(mantissa.astype(np.float64)) - 1
    assert np.abs(error).max() < ROOT_ERROR


def test_reciprocal_root_keeps_its_error_at_every_length() -> None:
    rng = np.random.default_rng(0)
    powers = np.left_shift(np.int64(1), np.arange(62))
    values = np.concatenate(
        [powers, powers[1:] - 1, (powers[:-1] * rng.uniform(1, 2, (40, 61))).astype(np.int64).ravel()]
    )
    values = values[values > 0]
    root, s = reciprocal_root(values)
    for v, r, power in zip(values.tolist(), root.tolist(), s.tolist(), strict=True):
        assert 4**power <= v < 4 ** (power + 1), "the power is exact where float64 is not"
        assert abs(r * math.sqrt(v) / 2.0 ** (16 + power) - 1) < ROOT_ERROR


@pytest.mark.parametrize(("channels", "spread"), [(2, 30000), (64, 3), (160, 900), (768, 30000), (4096, 12000)])
def test_normalised_values_are_within_the_stated_error(channels: int, spread: int) -> None:
    rng = np.random.default_rng(channels)
    x = np.clip(rng.normal(100, spread, (40, channels)), -32768, 32767).astype(np.int16)
    found = norm(channels).normalise(x)
    mean = x.astype(np.float64).mean(axis=1, keepdims=True)
    variance = (channels * np.square(x.astype(np.int64)).sum(1) - np.square(x.sum(1, dtype=np.int64)) + 1)[:, None]
    exact = (x - mean) * channels / np.sqrt(variance.astype(np.float64)) * 1024
    assert (np.abs(found - exact) <= 0.5 + np.abs(exact) * ROOT_ERROR + 1e-6).all()


def test_a_token_of_one_value_becomes_the_bias() -> None:
    operation = norm(96, bias=3 << 10, epsilon=1)
    for value in (-32768, 0, 32767):
        assert (operation.run(Wide(np.full((1, 96), value, np.int16), -6)).values == 3).all()


def test_the_largest_spread_stays_within_64_bits() -> None:
    channels = 4096
    x = np.full((2, channels), -32768, np.int16)
    x[0, ::2] = 32767
    x[1, 0] = 32767
    found = norm(channels).normalise(x)
    assert found[0, :2].tolist() == [1024, -1024]
    # One value among equals lies sqrt(C - 1) deviations out, beyond the 16 bits.
    assert found[1, 0] == 32767 and (found[1, 1:] == -round(1024 / math.sqrt(channels - 1))).all()
    damped = norm(channels, epsilon=1 << 60).normalise(x)[0, :2] / (1024 * 2**27 / math.sqrt(2**54 + 2**60))
    np.testing.assert_allclose(damped, [1, -1], atol=0.5 / 127)


def test_affine_is_one_multiply_add_and_rounding() -> None:
    rng = np.random.default_rng(5)
    operation = LayerNorm(
        name="norm",
        input_exponent=-6,
        wide_exponent=-9,
        epsilon=77,
        gain=rng.integers(-(1 << 15), 1 << 15, 70).astype(np.int16),
        bias=rng.integers(-(1 << 31), 1 << 31, 70).astype(np.int32),
        shift=16,
    )
    x = rng.integers(-2000, 2000, (3, 5, 70)).astype(np.int16)
    result = operation.run(Wide(x, -6))
    normalised = operation.normalise(x)
    for at in np.ndindex(x.shape):
        value = Fraction(int(normalised[at]) * int(operation.gain[at[-1]]) + int(operation.bias[at[-1]]), 1 << 16)
        assert result.values[at] == max(-32768, min(32767, round(value)))
    assert result.exponent == -9


def test_a_normalised_value_is_rounded_half_to_even() -> None:
    # Two channels d = 2**14 apart, so s = 14 and the value is root / 64: a tie wherever root % 64 is 32.
    d, epsilons = 1 << 14, np.arange(1, 1 << 27, 1 << 14, dtype=np.int64)
    root, s = reciprocal_root(d * d + epsilons)
    assert (s == 14).all()
    ties = np.flatnonzero(root % 64 == 32)[:20]
    assert {int(root[at]) >> 6 & 1 for at in ties} == {0, 1}, "ties of even and of odd floors"
    for at in ties:
        found = norm(2, epsilon=int(epsilons[at])).normalise(np.array([[0, d]], np.int16))
        nearest = round(Fraction(int(root[at]), 64))
        assert found.tolist() == [[-nearest, nearest]]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epsilon", 0),
        ("epsilon", (1 << 60) + 1),
        ("epsilon", True),
        ("shift", 41),
        ("shift", -1),
        ("gain", np.ones(5, np.int32)),
        ("gain", np.ones((1, 5), np.int16)),
        ("bias", np.ones(4, np.int32)),
        ("wide_exponent", 65),
        ("gain", np.ones(4097, np.int16)),
    ],
)
def test_a_norm_out_of_range_is_refused(field: str, value: object) -> None:
    with pytest.raises(UserError, match="norm"):
        replace(norm(5), **{field: value})  # type: ignore[arg-type]


def test_more_channels_than_64_bits_allow_are_refused() -> None:
    with pytest.raises(UserError, match="4097 channels"):
        norm(4097)


def test_another_input_is_refused() -> None:
    for wrong in (Wide(np.zeros((1, 5), np.int16), -7), Wide(np.zeros((1, 6), np.int16), -6)):
        with pytest.raises(ValueError, match="does not fit"):
            norm(5).run(wrong)


def test_finishing_is_the_one_of_all_operations() -> None:
    operation = norm(4, gain=3, bias=1, shift=1)
    x = np.array([[1, 2, 3, 40]], np.int16)
    wanted = finish_wide(operation.normalise(x) * 3 + 1, 1)
    np.testing.assert_array_equal(operation.run(Wide(x, -6)).values, wanted)
