"""Parts of maps: where their pixels lie, and what of an input they need."""

import numpy as np
import pytest

from sim.compiler.region import Region
from sim.compiler.results import Results
from sim.compiler.stripes import Rows, convolved
from sim.compiler.windows import Window, WindowRegion

WINDOW = Window(Rows(2, 5), Rows(3, 7))


def test_pixels_of_a_window_row_by_row() -> None:
    tokens = np.arange(80).reshape(8, 10)
    np.testing.assert_array_equal(WINDOW.tokens(10), tokens[2:5, 3:7].reshape(-1))
    assert WINDOW.corner(10) == tokens[2, 3]


def test_a_region_of_a_window_holds_its_pixels_alone() -> None:
    region = WindowRegion(1000, 32, 2, 16, 0, window=WINDOW, columns=10)
    np.testing.assert_array_equal(region.at(WINDOW.tokens(10)), 1000 + 32 * np.arange(12))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("length", [9, 10])
def test_a_convolution_needs_its_neighbours_and_keeps_its_centres(stride: int, length: int) -> None:
    results = -(-length // stride)
    for start in range(results):
        for stop in range(start + 1, results + 1):
            needed = convolved(Rows(start, stop), stride, length)
            taps = {stride * at + tap for at in range(start, stop) for tap in (-1, 0, 1)} & set(range(length))
            assert taps <= set(range(needed.start, needed.stop))
            assert needed.start % stride == 0 <= needed.start and needed.stop <= length


@pytest.mark.parametrize(("start", "count"), [(0, 12), (1, 2), (1, 3), (2, 7), (5, 6), (4, 4), (3, 1)])
def test_spans_of_a_window_are_its_pixels(start: int, count: int) -> None:
    """Of any tokens in a row, those of a first part skipped."""
    whole = Region(64, 48, 3, 16, 0)
    first, below = whole.at(np.array([WINDOW.corner(10), WINDOW.corner(10) + 10])).tolist()
    results = Results(first, 48, columns=WINDOW.width, row_pitch=below - first)
    wanted = whole.at(WINDOW.tokens(10))[start : start + count].tolist()
    for skipped in range(start + 1):
        found = []
        for address, loops in results.behind(skipped).spans(start - skipped, count):
            (inner, pitch), (outer, row) = (*loops, (1, 0))[:2]
            found += [address + y * row + x * pitch for y in range(outer) for x in range(inner)]
        assert found == wanted
