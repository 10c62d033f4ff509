"""Sizes of a softmax unit that other sizes rest on."""

import pytest

from hdl.ecp5.block_memory import BlockMemory
from hdl.softmax.geometry import DISTANCE_BITS, LANES, LOGIT_BITS, SoftmaxGeometry


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("keys", [1, 196, 2048, 4096])
def test_both_row_memories_answer_after_the_same_cycles(lanes: int, keys: int) -> None:
    geometry = SoftmaxGeometry(lanes=lanes, keys=keys)
    for bits in (LOGIT_BITS, DISTANCE_BITS):
        latency = BlockMemory.latency(width=lanes * bits, depth=geometry.depth)
        assert latency == geometry.memory_latency == (3 if geometry.depth > 2048 else 2)
