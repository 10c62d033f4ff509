"""Plays rows of logits into a simulated Softmax, watches its streams, and keeps what came out and when."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from amaranth.sim import Simulator
from numpy.typing import NDArray

from hdl.softmax.search import threshold_words
from hdl.softmax.softmax import Softmax
from tests.hdl.streams import receive, send

QUIET_CYCLES = 60
"""Cycles after the last codes in which nothing more may come."""


@dataclass
class Row:
    """One row: logits int (keys,), biases int (keys,) or None, which lanes hold them, bool (words * lanes,).

    marked: its last word says that it is the last.
    """

    logits: NDArray[np.int64]
    bias: NDArray[np.int64] | None
    present: NDArray[np.bool_]
    marked: bool = True

    @classmethod
    def of(cls, unit: Softmax, logits: NDArray[np.int64], bias: NDArray[np.int64] | None = None) -> "Row":
        """Keys side by side from lane 0 on, the last word filled as far as they reach."""
        words = unit.geometry.words(len(logits))
        return cls(logits, bias, np.arange(words * unit.geometry.lanes) < len(logits))

    def payloads(self, lanes: int, rng: np.random.Generator) -> tuple[list[dict[str, Any]], list[list[int]]]:
        """Words of i_logits and i_bias; lanes without a key carry noise."""
        logits = rng.integers(-(1 << 15), 1 << 15, len(self.present))
        bias = rng.integers(-(1 << 16), 1 << 16, len(self.present))
        logits[self.present] = self.logits
        if self.bias is not None:
            bias[self.present] = self.bias
        words = len(self.present) // lanes
        present = self.present.reshape(words, lanes) @ (1 << np.arange(lanes))
        return [
            {"logit": logit, "present": int(mask), "last": int(self.marked and word == words - 1)}
            for word, (logit, mask) in enumerate(zip(logits.reshape(words, lanes).tolist(), present, strict=True))
        ], bias.reshape(words, lanes).tolist()


@dataclass
class Outcome:
    """Codes of every row, keys only; cycles at which words of logits and of codes were transferred."""

    codes: list[NDArray[np.int64]]
    entered: list[int]
    left: list[int]


def random_rows(unit: Softmax, rng: np.random.Generator, lengths: Sequence[int], spread: float = 1500.0) -> list[Row]:
    """Normal logits of that spread, with normal biases where the unit takes them."""

    def numbers(keys: int, bits: int) -> NDArray[np.int64]:
        return np.clip(rng.normal(0, spread, keys).astype(np.int64), -(1 << (bits - 1)), (1 << (bits - 1)) - 1)

    return [Row.of(unit, numbers(keys, 16), numbers(keys, 17) if unit.geometry.bias else None) for keys in lengths]


def play(
    unit: Softmax,
    rows: Sequence[Row],
    thresholds: NDArray[np.int32],
    *,
    rng: np.random.Generator,
    gap: float = 0.0,
    stall: float = 0.0,
) -> Outcome:
    """Write the thresholds, send the rows, take the codes.

    gap, stall: probabilities per cycle that a source or the sink holds back. Checks on the way that `last` ends every
    row, that codes wait unchanged until they are taken, that nothing comes after them, and that o_idle tells the truth.
    """
    lanes = unit.geometry.lanes
    streams = [rng.spawn(1)[0] for _ in range(4)]
    outcome = Outcome([], [], [])
    words: list[dict[str, Any]] = []
    biases: list[list[int]] = []
    for row in rows:
        more, offsets = row.payloads(lanes, rng)
        words += more
        biases += offsets
    loaded: list[bool] = []
    cycle = 0

    async def logits(ctx: Any) -> None:
        table = threshold_words(thresholds, unit.geometry.code_bits)
        load = [{"code": code, "threshold": int(word)} for code, word in enumerate(table, 1)]
        await send(ctx, unit.i_threshold, [{"code": 0, "threshold": 1}, *load], rng=streams[0], gap=gap)
        loaded.append(True)
        await send(ctx, unit.i_logits, words, rng=streams[1], gap=gap)

    async def bias(ctx: Any) -> None:
        while not loaded:
            await ctx.tick()
        await send(ctx, unit.i_bias, biases, rng=streams[2], gap=gap)

    async def watch(ctx: Any) -> None:
        nonlocal cycle
        waiting = None
        while True:
            entered = ctx.get(unit.i_logits.valid) and ctx.get(unit.i_logits.ready)
            valid, ready, payload = ctx.get(unit.o.valid), ctx.get(unit.o.ready), ctx.get(unit.o.payload.as_value())
            assert waiting in (None, (valid, payload)), "codes that wait must stay"
            assert ctx.get(unit.o_idle) == (len(outcome.entered) == len(outcome.left))
            if entered:
                outcome.entered.append(cycle)
            if valid and ready:
                outcome.left.append(cycle)
            waiting = (valid, payload) if valid and not ready else None
            await ctx.tick()
            cycle += 1

    async def codes(ctx: Any) -> None:
        taken = await receive(ctx, unit.o, len(words), rng=streams[3], stall=stall)
        ctx.set(unit.o.ready, 1)
        await ctx.tick().repeat(QUIET_CYCLES)
        start = 0
        for row in rows:
            end = start + len(row.present) // lanes
            assert [word.last for word in taken[start:end]] == [0] * (end - start - 1) + [1]
            outcome.codes.append(np.array([list(word.code) for word in taken[start:end]]).reshape(-1)[row.present])
            start = end

    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(logits, background=True)
    if unit.geometry.bias:
        simulator.add_testbench(bias, background=True)
    simulator.add_testbench(codes)
    # Last, so that it sees what the others have set for the cycle.
    simulator.add_testbench(watch, background=True)
    simulator.run()
    assert len(outcome.left) == len(words) == len(outcome.entered)
    return outcome


def check(rows: Sequence[Row], thresholds: NDArray[np.int32], outcome: Outcome) -> None:
    """Every code of every key is the model's."""
    for number, (row, codes) in enumerate(zip(rows, outcome.codes, strict=True)):
        expected = Softmax.model(row.logits, thresholds, row.bias)
        assert np.array_equal(codes, expected), f"row {number} of {len(rows)} differs"
