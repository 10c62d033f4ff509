"""The declared points of every datapath unit."""

from typing import Final

from benchmarks.coverage.point import Point
from benchmarks.coverage.points import array, layer_norm, softmax, vector

POINTS: Final[tuple[Point, ...]] = (*array.POINTS, *softmax.POINTS, *layer_norm.POINTS, *vector.POINTS)
