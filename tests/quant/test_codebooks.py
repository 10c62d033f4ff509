"""Activation codebooks: the family and the exact choice of sixteen levels."""

from itertools import combinations

import numpy as np
import pytest

from quant.codebooks import best_levels, codebook_family, distinct_levels
from sim.contract.codebook import affine_codebook, check_levels


def squared_error(values: np.ndarray, weights: np.ndarray, levels: np.ndarray) -> float:
    distance = np.abs(values[:, None] - levels[None].astype(float)).min(axis=1)
    return float((weights * distance**2).sum())


def test_family_is_small_enough_for_the_array_and_every_row_is_a_codebook() -> None:
    family = codebook_family()
    assert family.shape == (16, 16)
    for levels in family:
        assert np.array_equal(check_levels(levels), levels)
        assert (np.diff(levels) > 0).all()
    assert len({levels.tobytes() for levels in family}) == 16
    assert np.array_equal(family[0], affine_codebook())


def test_best_levels_beat_every_exchange_of_one_level() -> None:
    generator = np.random.default_rng(3)
    values = generator.normal(0, 6, 400)
    weights = generator.uniform(0.1, 1.0, 400)
    levels = best_levels(values, weights)
    best = squared_error(values, weights, levels)
    unused = [level for level in range(-15, 16) if level not in levels]
    for drop in range(16):
        for other in unused:
            exchanged = np.sort(np.append(np.delete(levels, drop), other))
            assert squared_error(values, weights, exchanged) >= best - 1e-9


def test_best_levels_are_exact_where_few_values_occur() -> None:
    values = np.array([-15, -9, -3, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 14, 15], float)
    assert best_levels(values, np.ones(16)).tolist() == values.astype(int).tolist()


def test_best_levels_of_one_sided_values_are_dense_at_their_end() -> None:
    values = np.random.default_rng(1).exponential(4, 2000) - 15
    steps = np.diff(best_levels(values, np.ones(2000)))
    assert steps[:5].max() == 1 and steps[-1] > 1


def test_brute_force_over_a_narrow_grid_agrees() -> None:
    values = np.random.default_rng(2).uniform(-15, -1, 60)
    weights = np.ones(60)
    brute = min(
        squared_error(values, weights, np.array(chosen + tuple(range(1, 5))))
        for chosen in combinations(range(-15, -1), 12)
    )
    assert squared_error(values, weights, best_levels(values, weights)) <= brute + 1e-9


def test_levels_that_round_to_one_integer_are_pushed_apart_within_the_range() -> None:
    assert distinct_levels(np.array([0.0, 0.1, 0.3, 5.2]), 0, 15).tolist() == [0, 1, 2, 5]
    assert distinct_levels(np.array([3.0, 14.6, 14.8, 15.0]), 0, 15).tolist() == [3, 13, 14, 15]
    assert distinct_levels(np.array([-9.0, -8.0]), -4, 4).tolist() == [-4, -3]
    with pytest.raises(ValueError, match="5 distinct levels do not fit"):
        distinct_levels(np.zeros(5), 0, 3)
