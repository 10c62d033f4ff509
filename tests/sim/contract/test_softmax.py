import numpy as np
import pytest

from sim.contract.softmax import log2_of_sum, log_thresholds, score_codes

ONE = 1 << 23
"""A single largest term of the sum."""


def uniform_thresholds(codes: int) -> np.ndarray:
    """Probabilities between the levels of a uniform grid over [0, 1]."""
    return (np.arange(1, codes) - 0.5) / (codes - 1)


def log_grid(codes: int) -> np.ndarray:
    """Probabilities half a factor of two apart, from 1 downwards."""
    return np.sort(2.0 ** -(0.5 * np.arange(codes - 1) + 0.25))


def rows(keys: int, spread: float, seed: int = 0, count: int = 64) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, spread * 512, (count, keys)).astype(np.int32)


def float_softmax(logits: np.ndarray) -> np.ndarray:
    power = np.exp2((logits - logits.max(axis=-1, keepdims=True)) / 512)
    return power / power.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("keys", [1, 9, 49, 196, 4096])
@pytest.mark.parametrize("spread", [0.2, 1.5, 6.0])
@pytest.mark.parametrize("grid", [uniform_thresholds, log_grid])
@pytest.mark.parametrize("codes", [16, 256])
def test_codes_are_those_of_the_float_softmax_but_next_to_a_threshold(
    keys: int, spread: float, grid: object, codes: int
) -> None:
    thresholds = grid(codes)  # type: ignore[operator]
    logits = rows(keys, spread, seed=keys, count=16 if keys > 1000 else 64)
    found = score_codes(logits, log_thresholds(thresholds))
    assert found.dtype == np.uint8
    exact = float_softmax(logits)
    # Three steps of 2**-9 of log2: the sum's logarithm, the threshold's rounding, and small terms cut off.
    low, high = (np.searchsorted(thresholds, exact * 2.0 ** (shift / 512)) for shift in (-3, 3))
    # What lies below 2**-31 has no threshold of its own.
    visible = exact > 2.0**-30
    assert ((low <= found) & (found <= high))[visible].all()
    assert (found != np.searchsorted(thresholds, exact))[visible].mean() < 0.02


def test_few_codes_of_a_long_row_differ() -> None:
    logits = rows(4096, 3.0, count=32)
    thresholds = log_grid(16)
    wanted = np.searchsorted(thresholds, float_softmax(logits))
    assert (score_codes(logits, log_thresholds(thresholds)) != wanted).mean() < 0.005


@pytest.mark.parametrize("keys", [2, 49, 4096])
def test_the_order_of_keys_changes_no_bit(keys: int) -> None:
    logits, thresholds = rows(keys, 4.0, seed=3, count=8), log_thresholds(log_grid(16))
    order = np.random.default_rng(4).permutation(keys)
    np.testing.assert_array_equal(score_codes(logits[:, order], thresholds), score_codes(logits, thresholds)[:, order])


def test_what_is_constant_over_keys_changes_no_bit() -> None:
    logits, thresholds = rows(196, 4.0), log_thresholds(log_grid(16))
    shifted = logits + np.arange(-32, 32, dtype=np.int32)[:, None] * 900
    np.testing.assert_array_equal(score_codes(shifted, thresholds), score_codes(logits, thresholds))


def test_thousands_of_equal_keys_have_equal_probabilities() -> None:
    for keys in (1, 2, 64, 4096):
        for value in (-98304, 0, 98301):
            logits = np.full((1, keys), value, np.int32)
            for shift, code in ((-4, 1), (4, 0)):
                limit = log_thresholds(np.array([2.0 ** (shift / 512) / keys]))
                assert (score_codes(logits, limit) == code).all()


def test_the_widest_logits_do_not_wrap_around() -> None:
    logits = np.array([[-98304, 98301, -98304, 98301 - 512]], np.int32)
    assert score_codes(logits, log_thresholds(uniform_thresholds(16))).tolist() == [[0, 10, 0, 5]]


def test_a_distance_on_a_threshold_has_the_upper_code() -> None:
    # The second key lies d below the first, whose sum adds 1 step of log2: g = d + 1 as long as the term vanishes.
    logits = np.array([[0, -(24 << 9)]], np.int32)
    distance = int(log2_of_sum(np.array([ONE]))[0]) + (24 << 9)
    for threshold, code in ((distance - 1, 0), (distance, 1), (distance + 1, 1)):
        assert score_codes(logits, np.array([threshold], np.int32))[0, 1] == code


def test_log2_of_a_sum_is_within_one_step() -> None:
    rng = np.random.default_rng(0)
    sums = np.concatenate(
        [np.arange(1, 3000), 2 ** np.arange(52), (ONE * rng.uniform(1, 4096, 20000)).astype(np.int64)]
    )
    exact = 512 * (np.log2(sums.astype(np.float64)) - 23)
    assert np.abs(log2_of_sum(sums) - exact).max() < 1.3


def test_thresholds_are_negated_logarithms_rounded_down() -> None:
    found = log_thresholds(np.array([0.0, 2.0**-32, 0.1, 0.5, 1.0]))
    assert found.tolist() == [31 * 512, 31 * 512, 1700, 512, 0]
    assert found.dtype == np.int32
