"""The declared points of every datapath unit, and of the monitor beside them."""

from typing import Final

from benchmarks.coverage.point import Point
from benchmarks.coverage.points import activity, array, attention, layer_norm, softmax, vector

POINTS: Final[tuple[Point, ...]] = (
    *array.POINTS,
    *softmax.POINTS,
    *layer_norm.POINTS,
    *vector.POINTS,
    *attention.POINTS,
    *activity.POINTS,
)
