"""Attentions of any shape for benches, with codes that have the spread of real ones."""

import numpy as np
from numpy.typing import NDArray

from sim.contract.attention import Attention, DecomposedBias, StaticBias
from sim.contract.encoder import Encoder
from sim.contract.softmax import log_thresholds
from sim.contract.wide import Wide

SPREAD = 1500
"""Standard deviation of wide operands; levels of 8 bits then have one of 47."""


def synthetic_attention(
    generator: np.random.Generator,
    *,
    heads: int,
    width: int,
    side: int = 0,
    position: str = "none",
    q_levels: NDArray[np.int8] | None = None,
    stationary_bits: int = 8,
    score_top: int = 255,
) -> Attention:
    """An attention of `heads` heads of `width` channels, P of sixteen logarithmic codes.

    position: "none", "static" or "decomposed", of windows of side * side pixels. q_levels: (levels,), of q (default:
    all of 8 bits). stationary_bits: 4 or 8, of k and v. score_top: largest level of P.
    """
    channels = heads * width
    wide_q = np.arange(-128, 128, dtype=np.int8) if q_levels is None else q_levels
    stationary = np.arange(-8, 8) if stationary_bits == 4 else np.arange(-128, 120)

    def encoder(part: str, levels: NDArray[np.integer]) -> Encoder:
        # Sixteen levels: x / 256 instead of x / 32.
        shift = 14 if levels.size > 16 else 17
        middle = 256 << shift
        return Encoder(
            name=f"attend.{part}",
            input_exponent=-8,
            permutation=np.arange(channels).astype(np.uint16),
            multiplier=generator.integers(900, 1100, channels).astype(np.int16),
            addend=(middle + generator.integers(-(1 << shift), 1 << shift, channels)).astype(np.int32),
            shift=np.full(-(-channels // 64), shift, np.uint8),
            levels=levels.astype(np.int8)[None],
        )

    bias: StaticBias | DecomposedBias | None = None
    if position == "static":
        bias = StaticBias(generator.integers(-900, 900, (heads, side * side)).astype(np.int16), side)
    elif position == "decomposed":
        bias = DecomposedBias(
            rel_rows=generator.integers(-128, 120, (heads, 2 * side - 1, width)).astype(np.int8),
            rel_columns=generator.integers(-128, 120, (heads, 2 * side - 1, width)).astype(np.int8),
            row_scale=generator.integers(10, 60, heads).astype(np.uint16),
            column_scale=generator.integers(10, 60, heads).astype(np.uint16),
            rows=side,
            columns=side,
        )
    grid = np.expm1(np.log1p(2000.0 * 0.5) * np.arange(16) / 15) / 2000.0
    levels = np.rint(grid / grid[-1] * score_top).astype(np.uint16)
    narrow = (wide_q.size == 16) + (stationary_bits == 4)
    return Attention(
        name="attend",
        heads=heads,
        q=encoder("q", wide_q),
        k=encoder("k", stationary),
        v=encoder("v", stationary),
        logit_scale=generator.integers(80, 120, heads).astype(np.uint16) * np.uint16(8**narrow),
        thresholds=log_thresholds((grid[1:] + grid[:-1]) / 2),
        score_levels=levels,
        scale=generator.integers(1, 16 if score_top > 255 else 200, channels).astype(np.uint16),
        bias=generator.integers(-(1 << 16), 1 << 16, channels).astype(np.int32),
        wide_exponent=-8,
        position=bias,
    )


def synthetic_operands(
    generator: np.random.Generator, operation: Attention, *, windows: int, queries: int, keys: int
) -> tuple[Wide, Wide, Wide]:
    """Normal q, k and v (windows, tokens, H * D) for an attention."""

    def tokens(count: int) -> Wide:
        values = generator.normal(0, SPREAD, (windows, count, operation.q.channels))
        return Wide(np.clip(values, -32768, 32767).astype(np.int16), operation.q.input_exponent)

    return tokens(queries), tokens(keys), tokens(keys)
