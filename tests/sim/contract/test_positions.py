import numpy as np
import pytest

from sim.contract.errors import UserError
from sim.contract.positions import Positions, round_positions


def test_every_code_and_shift_is_within_16_bits() -> None:
    code = np.arange(-128, 128).astype(np.int8).reshape(16, 16, 1).repeat(9, axis=2)
    found = Positions("p", code, np.arange(9).astype(np.uint8)).at(-5)
    assert found.exponent == -5 and found.values.dtype == np.int16
    for shift in range(9):
        np.testing.assert_array_equal(found.values[..., shift].ravel(), np.arange(-128, 128) * 2**shift)


def test_a_channel_has_the_finest_step_that_reaches_its_largest() -> None:
    largest = np.array([0, 1, 127, 127.4, 128, 254, 256, 5000, 16256, 21844], np.float32)
    real = np.linspace(-1, 1, 20, dtype=np.float32)[:, None, None] * largest * 2.0**-9
    found = round_positions("p", real, -9)
    assert found.shift.tolist() == [0, 0, 0, 0, 1, 1, 2, 6, 7, 8]
    step = 2.0 ** (found.shift.astype(np.int32) - 9)
    assert (np.abs(found.at(-9).real() - real) <= 0.5001 * step).all()


def test_what_is_beyond_16_bits_saturates() -> None:
    found = round_positions("p", np.array([[[-1e9, 1e9]]], np.float32), -9)
    assert found.values.tolist() == [[[-127 * 256, 127 * 256]]]


@pytest.mark.parametrize("finer", [0, 1, 2])
def test_rounding_twice_changes_nothing(finer: int) -> None:
    rng = np.random.default_rng(5)
    real = (rng.normal(0, 1, (20, 20, 300)) * rng.uniform(0, 4000, 300)).clip(-8000, 8000).astype(np.float32)
    once = round_positions("p", real, 0).at(0).real()
    again = round_positions("p", once, -finer).at(-finer)
    np.testing.assert_array_equal(again.real(), once)


def test_the_loss_is_small_beside_the_positions() -> None:
    real = np.random.default_rng(6).normal(0, 0.3, (64, 64, 24)).astype(np.float32)
    error = round_positions("p", real, -14).at(-14).real() - real
    assert float(np.square(error).mean() / np.square(real).mean()) < 4e-4


@pytest.mark.parametrize(
    ("code", "shift", "message"),
    [
        (np.zeros((3, 4), np.int8), np.zeros(4, np.uint8), "rows, columns, channels"),
        (np.zeros((0, 3, 4), np.int8), np.zeros(4, np.uint8), "rows, columns, channels"),
        (np.zeros((2, 3, 4), np.int16), np.zeros(4, np.uint8), "code must be int8"),
        (np.zeros((2, 3, 4), np.int8), np.zeros(3, np.uint8), "shift must be uint8"),
        (np.zeros((2, 3, 4), np.int8), np.zeros(4, np.int8), "shift must be uint8"),
        (np.zeros((2, 3, 4), np.int8), np.full(4, 9, np.uint8), "shift exceeds 8"),
    ],
)
def test_what_is_out_of_range_is_refused(code: np.ndarray, shift: np.ndarray, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Positions("p", code, shift)
