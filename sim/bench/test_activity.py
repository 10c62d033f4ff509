"""`python -m sim check --trace`: where the cycles of a layer on Verilator went."""

import json
from pathlib import Path

import pytest

from sim.__main__ import main
from sim.bench.activity_bench import trace_of_log
from sim.bench.verilator import BenchError
from sim.trace import STATES, check_events, read_events

EARLY_LAYER = "image_encoder.layers.0.blocks.0.conv1.c"
"""64 channels of 8 bits to 256, so 128 inputs of 4 bits: whole tiles of a 16 x 4 array, nothing padded."""

TOKENS = 12


@pytest.mark.parametrize("pressure", [0.0, 0.3])
def test_the_trace_of_a_layer_accounts_for_every_cycle(
    exported_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], pressure: float
) -> None:
    path, figures_file = tmp_path / "trace.json", tmp_path / "figures.json"
    command = ["check", str(exported_model), "--layer", EARLY_LAYER, "--tokens", str(TOKENS), "--preset", "tiny"]
    command += ["--trace", str(path), "--json", str(figures_file), "--back-pressure", str(pressure), "--seed", "2"]
    assert main(command) == 0
    figures = json.loads(figures_file.read_text())
    events = read_events(path)
    spans = [event["args"] for event in events if event["ph"] == "X" and event["tid"] == 1]
    cycles = spans[-1]["cycle"] + spans[-1]["cycles"]
    totals = {unit: dict(zip(STATES, states, strict=True)) for unit, states in check_events(events, cycles).items()}
    counts = {event["name"]: event["args"]["transfers"] for event in events if event["ph"] == "C"}
    # The commands' cycles, and before them reset, codebooks and the wait for the first command.
    assert figures["cycles"] < cycles < figures["cycles"] + 200
    tiles = (128 // 16) * (256 // 4)
    assert counts["sequencer i_command transfers"] == 2 * tiles + 1  # LOAD and RUN, and the bench's sentinel
    assert counts["loader i_weights transfers"] == tiles * (16 // 8)
    assert counts["array i_codes transfers"] == tiles * TOKENS == totals["array"]["busy"]
    assert counts["matmul o transfers"] == TOKENS * (256 // 4) == counts["output_fifo o transfers"]
    assert figures["utilisation"] == pytest.approx(totals["array"]["busy"] / figures["cycles"])
    stalls = {unit: states["stalled on input"] for unit, states in totals.items()}
    if pressure:
        assert stalls["array"] > 0.2 * totals["array"]["busy"]
        assert stalls["loader"] > 0
        assert totals["output_fifo"]["stalled on output"] > 0.2 * counts["output_fifo o transfers"]
    else:
        assert stalls["array"] == 0
        assert all(states["stalled on output"] == 0 for states in totals.values())
    printed = capsys.readouterr().out.splitlines()
    line = next(line for line in printed if line.startswith("array"))
    assert line.split()[1] == f"{totals['array']['busy'] / cycles:.1%}"


def test_damaged_or_missing_activity_is_refused() -> None:
    with pytest.raises(BenchError, match="printed no activity"):
        trace_of_log(["cocotb was here"], title="")
    with pytest.raises(BenchError, match="a damaged line of activity: 'activity loader sta'"):
        trace_of_log(["activity loader sta"], title="")
    with pytest.raises(BenchError, match="loader: 3 changes of state were dropped by cycle 40"):
        trace_of_log(["activity loader state 40 1 3"], title="")
