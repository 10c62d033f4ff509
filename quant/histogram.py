"""Histograms of activations that a few outliers cannot flatten into one bar."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike

TAIL: Final = 0.001
"""Share of the values, on either side, that may fall outside the bars."""

STRETCH: Final = 2.0
"""A tail is cut off only where the values reach over more than this many times the range of the rest."""


@dataclass(frozen=True)
class Histogram:
    """`counts[i]` values lie in [edges[i], edges[i + 1]), the last bin closed; `below` and `above` values lie outside.

    edges: ascending, of one width, in the unit of the values. `low` and `high` are the smallest and largest value.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    below: int
    above: int
    low: float
    high: float

    @classmethod
    def of(cls, values: ArrayLike, bins: int = 64) -> "Histogram":
        """Histogram of an array of any shape. The bars span all values, or the inner 99.8 % of them where the rest
        are outliers. Raises ValueError without values, without bins, and for values that are not finite."""
        flat = np.asarray(values, np.float64).ravel()
        if flat.size == 0 or bins < 1:
            raise ValueError(f"histogram of {flat.size} values in {bins} bins")
        low, high = float(flat.min()), float(flat.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise ValueError("histogram of values that are not finite")
        first, last = (float(bound) for bound in np.quantile(flat, (TAIL, 1 - TAIL)))
        if first == last or high - low <= STRETCH * (last - first):
            first, last = low, high
        # Values in one place, or so close that float64 has no room for the edges, get bars around them.
        room = bins * float(np.spacing(max(abs(first), abs(last))))
        if last - first <= room:
            half = max(room, 0.5)
            first, last = first - half, last + half
        counts, edges = np.histogram(flat, bins, (first, last))
        return cls(
            edges=tuple(edges.tolist()),
            counts=tuple(counts.tolist()),
            below=int((flat < first).sum()),
            above=int((flat > last).sum()),
            low=low,
            high=high,
        )

    @property
    def total(self) -> int:
        """How many values there were."""
        return sum(self.counts) + self.below + self.above

    def to_json(self) -> dict[str, Any]:
        """Plain lists and numbers, for a file of figures."""
        return {
            "edges": list(self.edges),
            "counts": list(self.counts),
            "below": self.below,
            "above": self.above,
            "low": self.low,
            "high": self.high,
        }

    @classmethod
    def from_json(cls, entry: dict[str, Any]) -> "Histogram":
        """What `to_json` gave. Raises ValueError when there is not one edge more than counts."""
        if len(entry["edges"]) != len(entry["counts"]) + 1:
            raise ValueError(f"{len(entry['edges'])} edges for {len(entry['counts'])} counts")
        return cls(**{**entry, "edges": tuple(entry["edges"]), "counts": tuple(entry["counts"])})
