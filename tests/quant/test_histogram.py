"""Histograms: every value is counted once, and outliers do not squeeze the rest."""

import json

import numpy as np
import pytest

from quant.histogram import Histogram


def test_every_value_is_counted_in_its_bin() -> None:
    histogram = Histogram.of([0.0, 0.5, 1.0, 1.5, 1.5, 4.0], bins=4)
    assert histogram.edges == (0.0, 1.0, 2.0, 3.0, 4.0)
    assert histogram.counts == (2, 3, 0, 1)
    assert (histogram.below, histogram.above, histogram.total) == (0, 0, 6)


def test_outliers_are_counted_beside_the_bars() -> None:
    values = np.concatenate([np.random.default_rng(0).normal(size=20_000), [-900.0, 700.0, 800.0]])
    histogram = Histogram.of(values)
    assert -5 < histogram.edges[0] < -2 and 2 < histogram.edges[-1] < 5
    assert histogram.below >= 1 and histogram.above >= 2
    assert histogram.below + histogram.above <= 0.002 * values.size + 2
    assert histogram.total == values.size
    assert (histogram.low, histogram.high) == (-900.0, 800.0)


def test_values_without_outliers_all_lie_in_bars() -> None:
    values = np.random.default_rng(0).normal(size=(50, 40))
    histogram = Histogram.of(values)
    assert (histogram.below, histogram.above) == (0, 0)
    assert histogram.edges[0] == values.min() and histogram.edges[-1] == values.max()


def test_mostly_zero_values_keep_their_tail() -> None:
    values = np.zeros(10_000)
    values[0] = 6.0
    histogram = Histogram.of(values, bins=3)
    assert histogram.counts == (9_999, 0, 1)


@pytest.mark.parametrize("value", [0.0, -3.5, 1e20])
def test_equal_values_get_bars_around_them(value: float) -> None:
    histogram = Histogram.of([value] * 5, bins=8)
    assert sum(histogram.counts) == 5
    assert histogram.edges[0] < value < histogram.edges[-1]
    assert all(a < b for a, b in zip(histogram.edges, histogram.edges[1:], strict=False))


def test_json_and_back_is_the_same() -> None:
    histogram = Histogram.of(np.random.default_rng(1).normal(size=100).astype(np.float32), bins=5)
    assert Histogram.from_json(json.loads(json.dumps(histogram.to_json(), allow_nan=False))) == histogram


def test_nonsense_is_refused() -> None:
    for values in ([], [float("nan"), 1.0], [float("inf")]):
        with pytest.raises(ValueError, match="histogram of"):
            Histogram.of(values)
    with pytest.raises(ValueError, match="0 bins"):
        Histogram.of([1.0], bins=0)
    with pytest.raises(ValueError, match="2 edges for 2 counts"):
        Histogram.from_json({**Histogram.of([1.0, 2.0], bins=1).to_json(), "counts": [1, 1]})
