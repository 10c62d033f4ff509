"""Operands that the array holds: places of nibbles, and zeros where tokens are missing."""

import numpy as np
import pytest

from sim.compiler.encode import HALF_TILE, plan_operand
from sim.contract.encoder import Encoder


@pytest.mark.parametrize(("unit", "present"), [(8, 4), (8, 1), (16, 1), (32, 1)])
def test_missing_tokens_become_level_zero(unit: int, present: int) -> None:
    """Whatever the values are: the machine says nothing about P beyond the last key."""
    random = np.random.default_rng(5)
    channels, group = 96, HALF_TILE // unit
    encoder = Encoder(
        "v",
        -8,
        np.arange(channels, dtype=np.uint16),
        random.integers(500, 900, channels).astype(np.int16),
        np.full(channels, 300 << 12, np.int32),
        np.array([12, 12], np.uint8),
        np.arange(-128, 120, dtype=np.int8)[None],
    )
    plan = plan_operand(encoder, 2, unit, present, 8)
    values = random.integers(-3000, 3000, (group, channels))
    position = np.arange(plan.order.size)
    index = values.reshape(-1)[plan.order] * plan.multiplier + plan.addend >> plan.shift[position // 64]
    code = np.array([plan.tables[p // 64][i] for p, i in zip(position, index.clip(0, 511), strict=True)])
    level = (code >> 4 ^ 8) * 16 - 128 + (code & 15 ^ 8) - 8
    token, channel = plan.order // channels, plan.order % channels
    wanted = np.clip(((values * encoder.multiplier + encoder.addend) >> 12), 0, 511)[token, channel]
    wanted = np.clip((wanted + 1) // 2 - 128, -128, 119)
    assert not level[token >= present].any()
    kept = token < present
    assert np.abs(level[kept] - wanted[kept]).max() <= 1
    assert (np.diff(channel.reshape(-1, unit)) == 1).all()
