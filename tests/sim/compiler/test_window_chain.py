"""Windows of a map: every one in a stripe once, with others that are padded alike and lie one distance apart."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from sim.compiler.fuse import fuse
from sim.compiler.trace import ZERO, Node, trace
from sim.compiler.window_chain import WindowChain, window_chain
from sim.machine.presets import PRESETS

SMALL = PRESETS["small"]


@pytest.fixture(scope="module")
def block(toy_tiny_vit: Any) -> list[Node]:
    nodes, _ = trace(toy_tiny_vit.parameters, toy_tiny_vit.architecture, SMALL.lanes)
    return [node for node in nodes if ".layers.1.blocks.0.attn." in node.name]


@pytest.fixture(scope="module")
def chain(block: list[Node]) -> WindowChain:
    found = window_chain(fuse(block, SMALL), SMALL.lanes)
    assert found is not None
    return found


def test_every_pixel_is_in_one_window(chain: WindowChain) -> None:
    """9 windows of 5 x 5 pixels on a map of 12 x 12."""
    assert chain.pixels.shape == (9, 25)
    np.testing.assert_array_equal(np.sort(chain.pixels[chain.pixels != ZERO]), np.arange(144))


@pytest.mark.parametrize("most", [1, 2, 3])
def test_stripes_hold_windows_padded_alike(chain: WindowChain, most: int) -> None:
    stripes = chain.stripes(most)
    assert sorted(window for stripe in stripes for window in stripe) == list(range(9))
    padding = (chain.pixels == ZERO).tolist()
    for stripe in stripes:
        assert len(stripe) <= most
        assert all(padding[window] == padding[stripe[0]] for window in stripe)
        assert len({int(chain.corners[b] - chain.corners[a]) for a, b in pairwise(stripe)}) <= 1
    assert len(stripes) == {1: 9, 2: 5, 3: 5}[most]


def test_other_chains_are_none(block: list[Node]) -> None:
    """Without the sum, the last layer, or its windows joined as they were cut."""
    assert window_chain(fuse(block[:-1], SMALL), SMALL.lanes) is None
    assert window_chain(fuse(block[:3], SMALL), SMALL.lanes) is None
    stages = fuse(block, SMALL)
    view = stages[2].main.inputs[0]
    assert view.beats is not None
    beats = view.beats.copy()
    view.beats[0], view.beats[1] = beats[1], beats[0]
    assert window_chain(stages, SMALL.lanes) is None
    view.beats[:] = beats
