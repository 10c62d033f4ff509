import numpy as np
import pytest

from sim.contract.codebook import affine_codebook, check_levels, nearest_code
from sim.contract.errors import UserError


def test_affine_codebook_is_code_minus_eight() -> None:
    assert affine_codebook().tolist() == list(range(-8, 8))


@pytest.mark.parametrize("levels", [list(range(15)), [0.5] * 16, [16, *range(15)], [-16, *range(15)]])
def test_what_is_no_codebook_is_refused_by_name(levels: list[float]) -> None:
    with pytest.raises(UserError, match="codebook"):
        check_levels(np.array(levels), "codebook post_gelu")


def test_nearest_code_against_a_search_over_all_codes() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        levels = rng.integers(-15, 16, 16).astype(np.int8)
        value = rng.uniform(-20, 20, 200).astype(np.float32)
        chosen = levels[nearest_code(value, levels)]
        best = np.abs(value[:, None] - levels).min(axis=1)
        np.testing.assert_array_equal(np.abs(value - chosen), best)


def test_a_value_on_a_threshold_takes_the_lower_level() -> None:
    levels = affine_codebook()
    assert levels[nearest_code(np.array([-0.5, 0.5, 6.5], np.float32), levels)].tolist() == [-1, 0, 6]


def test_of_equal_levels_the_first_code_is_written() -> None:
    levels = np.array([5, 0, 0, 5, *([7] * 12)], np.int8)
    assert nearest_code(np.array([0.0, 5.0, 9.0], np.float32), levels).tolist() == [1, 0, 4]
