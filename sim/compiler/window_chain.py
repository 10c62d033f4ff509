"""A block's attention in windows, from the map to the sum: which windows of the map it cuts, and which are alike.

q, k and v, attention, its last layer and the sum with the map: a window's results need nothing but the window, so all
of it can be done a few windows at a time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from sim.compiler.fuse import Fused
from sim.compiler.same_parts import even
from sim.compiler.trace import ZERO, Node, View
from sim.contract.attention import Attention
from sim.contract.layer import QuantizedLayer
from sim.contract.residual import Residual


@dataclass(frozen=True)
class WindowChain:
    """qkv: with the norm in front of it, where there is one. pixels: int64 (windows, tokens), which pixel of the map
    each token of a window is, ZERO where it is padding."""

    qkv: Fused
    attend: Node
    proj: Node
    add: Node
    pixels: NDArray[np.int64]

    @property
    def cut(self) -> View:
        """The map as windows."""
        return self.qkv.first.inputs[0]

    @property
    def added(self) -> View:
        """What the sum adds to the attention."""
        return next(view for view in self.add.inputs if view.source != self.proj.number)

    @cached_property
    def kinds(self) -> list[bytes]:
        """Of each window: equal where windows differ in their place on the map alone."""
        relative = np.where(self.pixels == ZERO, ZERO, self.pixels - self.corners[:, None])
        return [one.tobytes() for one in relative]

    @cached_property
    def corners(self) -> NDArray[np.int64]:
        """The first pixel of each window."""
        return np.where(self.pixels == ZERO, self.add.tokens, self.pixels).min(axis=1)

    def stripes(self, most: int) -> list[tuple[int, ...]]:
        """All windows, up to so many together: alike, and one distance apart, as stripes in a row are too."""
        by_kind: dict[bytes, list[int]] = {}
        for window, kind in enumerate(self.kinds):
            by_kind.setdefault(kind, []).append(window)
        result = []
        for windows in by_kind.values():
            distances = [int(self.corners[b] - self.corners[a]) for a, b in pairwise(windows)]
            at = 0
            while at < len(windows):
                row = windows[at : at + even(distances[at:])]
                result += [tuple(row[start : start + most]) for start in range(0, len(row), most)]
                at += len(row)
        return result


def window_chain(stages: Sequence[Fused], lanes: int) -> WindowChain | None:
    """What these operations are, where they are a block's attention in windows; attention reads its windows from the
    layer in front of it. lanes: values of a beat."""
    if len(stages) != 4 or any(stage.activation is not None for stage in stages):
        return None
    qkv, attend, proj, add = stages
    kinds = QuantizedLayer, Attention, QuantizedLayer, Residual
    if not all(isinstance(stage.main.operation, kind) for stage, kind in zip(stages, kinds, strict=True)):
        return None
    views = qkv.first.inputs[0], proj.first.inputs[0]
    alone = proj.norm is None and views[1].source == attend.main.number
    if not alone or len(add.main.inputs) != 2 or proj.main.number not in [view.source for view in add.main.inputs]:
        return None
    cut, joined = (_whole_tokens(view, lanes) for view in views)
    if cut is None or joined is None or not np.array_equal(cut[joined], np.arange(add.main.tokens)):
        return None
    if np.count_nonzero(cut != ZERO) != joined.size:
        return None
    return WindowChain(qkv, attend.main, proj.main, add.main, cut.reshape(attend.main.shape[:2]))


def _whole_tokens(view: View, lanes: int) -> NDArray[np.int64] | None:
    """Which token of its source each token of a view is, ZERO for padding; None where it is no whole token."""
    if view.beats is None or view.dense:
        return None
    of_token = -(-view.channels // lanes)
    first = view.beats[:, 0].astype(np.int64)
    number = np.where(first == ZERO, ZERO, first // of_token)
    wanted = np.where(number[:, None] == ZERO, ZERO, number[:, None] * of_token + np.arange(of_token))
    return number if np.array_equal(view.beats, wanted) else None
