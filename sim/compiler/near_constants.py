"""Constants that a step reads again and again, copied to near memory for as long as it lasts."""

from bisect import bisect_right
from collections.abc import Iterable, Mapping


class NearConstants:
    """Copies of spans of constants: where each begins, its bytes, and where its copy is."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._spans: list[tuple[int, int]] = []

    def set(self, copies: Mapping[tuple[int, int], int]) -> None:
        """These copies alone, by (address, bytes) of the constants, which do not overlap."""
        spans = sorted((start, size, copy) for (start, size), copy in copies.items())
        self._starts = [start for start, _, _ in spans]
        self._spans = [(size, copy) for _, size, copy in spans]

    @property
    def copies(self) -> list[int]:
        """Where the copies are."""
        return [copy for _, copy in self._spans]

    def place(self, address: int) -> int:
        """Where to read what is at this address: in its copy, or there."""
        number = bisect_right(self._starts, address) - 1
        if number < 0:
            return address
        offset, (size, copy) = address - self._starts[number], self._spans[number]
        return copy + offset if offset < size else address


def merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans (address, bytes) without overlaps, those that touch together."""
    result: list[tuple[int, int]] = []
    for start, size in sorted(spans):
        if result and start <= result[-1][0] + result[-1][1]:
            first, before = result[-1]
            result[-1] = first, max(before, start + size - first)
        else:
            result.append((start, size))
    return result
