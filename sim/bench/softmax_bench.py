"""Rows of logits through the simulated softmax unit."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from amaranth.lib import data
from numpy.typing import NDArray

from hdl.softmax.search import threshold_words
from hdl.softmax.softmax import Softmax
from sim.bench.packing import unpack
from sim.bench.player import BackPressure, Flip
from sim.bench.unit import CompiledUnit, Job, run_jobs


@dataclass(frozen=True)
class SoftmaxRun:
    """Codes uint8 (keys,) of every row; the cycles at which words of logits and of codes were transferred."""

    codes: list[NDArray[np.uint8]]
    entered: NDArray[np.int64]
    left: NDArray[np.int64]


def run_rows(
    compiled: CompiledUnit[Softmax],
    rows: Sequence[tuple[NDArray[np.integer], NDArray[np.integer]]],
    thresholds: NDArray[np.int32],
    back_pressure: BackPressure,
    *,
    seed: int = 0,
    flips: Sequence[Flip] = (),
) -> SoftmaxRun:
    """Write the thresholds (n,), then run rows of (logits, biases), both (keys,), one behind the other.

    Raises BenchError when the simulation fails or the unit breaks a rule of its streams.
    """
    unit = compiled.unit
    geometry = unit.geometry
    table = threshold_words(thresholds, geometry.code_bits)
    fields = {"code": np.arange(1, table.size + 1), "threshold": table}
    words = [geometry.words(len(logits)) for logits, _ in rows]
    total = sum(words)
    logits, bias = np.zeros((2, total, geometry.lanes), np.int64)
    present = np.zeros((total, geometry.lanes), np.int64)
    last = np.zeros(total, np.int64)
    starts = np.cumsum([0, *words])
    for start, (row, offset) in zip(starts * geometry.lanes, rows, strict=False):
        place = slice(start, start + len(row))
        logits.reshape(-1)[place], bias.reshape(-1)[place], present.reshape(-1)[place] = row, offset, 1
    last[starts[1:] - 1] = 1
    payloads: dict[str, Any] = {
        "i_logits": {"logit": logits, "present": present @ (1 << np.arange(geometry.lanes)), "last": last},
        "i_bias": bias,
    }
    job = Job({"i_threshold": fields}, payloads, total)
    (result,) = run_jobs(compiled, [job], back_pressure, idle="o_idle", seed=seed, flips=flips)
    bits = unpack(data.ArrayLayout(1, unit.o.payload.shape().size), result.payloads["o"])
    found = bits[:, :-1].reshape(total * geometry.lanes, geometry.code_bits) @ (1 << np.arange(geometry.code_bits))
    assert np.array_equal(bits[:, -1], last), "a row of codes does not end where its logits did"
    return SoftmaxRun(
        codes=[
            found[start : start + len(row)].astype(np.uint8)
            for start, (row, _) in zip(starts * geometry.lanes, rows, strict=False)
        ],
        entered=result.transfer_cycles["i_logits"],
        left=result.transfer_cycles["o"],
    )
