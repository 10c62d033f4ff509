# amaranth: UnusedElaboratable=no

"""What a traced component prints is what the model makes of its recorded handshakes."""

import numpy as np
import pytest

from hdl.activity.matmul_parts import matmul_parts
from hdl.activity.observation import Observation, observe
from hdl.activity.parts import Parts
from hdl.activity.traced import Traced
from hdl.array.geometry import PRESETS
from hdl.matmul import Matmul
from hdl.vector.residual import ResidualAdd
from sim.bench.activity_bench import trace_of_log
from tests.hdl.activity.handshakes import shake

CYCLES = 900


def test_printed_activity_is_the_models(capfd: pytest.CaptureFixture[str]) -> None:
    unit = ResidualAdd(lanes=2)
    traced = Traced(unit, lambda parts: [observe(parts[""], "residual")], period=64)
    seen = shake(traced, unit, cycles=CYCLES, seed=3)
    trace = trace_of_log(capfd.readouterr().out.splitlines(), title="test")
    activity = trace.units["residual"]
    assert CYCLES - 100 < trace.cycles < CYCLES
    states = np.repeat(activity.states, np.diff(activity.starts, append=trace.cycles))
    assert states.tolist() == seen.states[: trace.cycles].tolist()
    assert trace.state_cycles("residual").tolist() == np.bincount(states, minlength=4).tolist()
    for transfers, counts in zip(seen.transfers, activity.transfers.values(), strict=True):
        before = np.concatenate([[0], np.cumsum(transfers)])
        assert len(counts) > 5
        assert counts[:, 1].tolist() == before[counts[:, 0]].tolist()


def test_the_parts_of_the_matrix_multiplier_are_found_by_their_paths(capfd: pytest.CaptureFixture[str]) -> None:
    matmul = Matmul(PRESETS["tiny"])
    names: list[str] = []

    def observations(parts: Parts) -> list[Observation]:
        found = matmul_parts(parts)
        names.extend(each.name for each in found)
        return found

    shake(Traced(matmul, observations), matmul, cycles=40, seed=1)
    assert names == ["matmul", "sequencer", "loader", "array", "output_fifo"]
    assert "activity matmul state" in capfd.readouterr().out
