"""COCO's three ways to write an instance's mask, brought to one: compressed run lengths, down the columns.

What is read here goes on to compiled code, so lengths and sizes are checked first.
"""

import math
from typing import Any, TypeGuard

from pycocotools import mask as run_lengths


def is_number(value: Any) -> TypeGuard[float]:
    """A finite number of JSON; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_id(value: Any) -> TypeGuard[int]:
    """An integer of JSON; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def _counts_of_text(text: str) -> list[int]:
    """Run lengths of COCO's compressed text: groups of 6 bits from character 48 on, of which 5 carry the number in
    two's complement, low end first, and bit 5 says that more follow; from the fourth run on, a number is the
    difference from the run before last."""
    counts: list[int] = []
    value = shift = 0
    for character in text:
        group = ord(character) - 48
        if not 0 <= group < 64:
            raise ValueError("text of run lengths")
        value |= (group & 31) << shift
        shift += 5
        if not group & 32:
            value -= (1 << shift) if group & 16 else 0
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("text of run lengths ends early")
    return counts


def run_length_code(segmentation: Any, width: int, height: int) -> dict[str, Any]:
    """COCO's compressed code of polygons or of run lengths. Raises ValueError when it does not fit the picture."""
    if isinstance(segmentation, list):
        polygons = [polygon for polygon in segmentation if isinstance(polygon, list)]
        if len(polygons) != len(segmentation) or not polygons:
            raise ValueError("no polygons")
        for polygon in polygons:
            if len(polygon) < 6 or len(polygon) % 2 or not all(map(is_number, polygon)):
                raise ValueError("a polygon that is not x, y of three or more corners")
            if max(map(abs, polygon)) > 2 * (width + height):
                raise ValueError("a polygon far outside the picture")
        code = run_lengths.merge(run_lengths.frPyObjects(polygons, height, width))
        return {"size": [height, width], "counts": code["counts"]}
    if not isinstance(segmentation, dict) or segmentation.get("size") != [height, width]:
        raise ValueError("neither polygons nor run lengths of the picture's size")
    counts = segmentation.get("counts")
    if isinstance(counts, str):
        counts = _counts_of_text(counts)
    if not isinstance(counts, list) or not all(is_id(run) and run >= 0 for run in counts):
        raise ValueError("run lengths that are not numbers")
    if sum(counts) != width * height:
        raise ValueError("run lengths that do not fill the picture")
    code = run_lengths.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return {"size": [height, width], "counts": code["counts"]}
