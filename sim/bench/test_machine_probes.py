# amaranth: UnusedElaboratable=no

"""Timeline and waveform of the verilated machine: they show what it did, and change nothing of it."""

import json
import shutil
import struct
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from numpy.typing import NDArray

from hdl.activity.machine_parts import UNITS
from hdl.activity.state import State
from hdl.machine.mover import PATIENCE
from sim.bench.layers import check_probes
from sim.bench.machine_activity import Activity, Watch, merged, trace_of_runs
from sim.bench.machine_bench import LZ4, MachineRun, Wave, run_program
from sim.bench.machine_layers import LayerRun, run_layers, trace_of_layers
from sim.bench.machine_pins import MachinePins
from sim.bench.verilator import verilog_of
from sim.compiler.compile import Program, compile_encoder
from sim.contract.errors import UserError
from sim.machine.commands import Command, Opcode
from sim.machine.ports import Port
from sim.machine.presets import PRESETS
from sim.probes import Probes
from sim.trace import check_events, read_events, write_trace
from tests.sim.compiler.networks import toy_sam_vit

MINI: Final = replace(
    PRESETS["tiny"],
    name="mini",
    rows=16,
    columns=4,
    loader_rows=16,
    column_group=4,
    lanes=2,
    norm_lanes=2,
    depthwise_taps=1,
)
"""The smallest machine, compiled in a fraction of the time. Its beats are too narrow for attention."""

BEATS: Final = 40
COPY: Final = [
    Command(Opcode.WRITE, Port.COPIED, 4096, (BEATS, 1, 1, 1)),
    Command(Opcode.READ, Port.COPY, 2048, (BEATS, 1, 1, 1)),
    Command(Opcode.WAIT),
]
PROGRAM: Final = b"".join(command.encode() for command in [*COPY, *COPY, Command(Opcode.STOP)])
IMAGE: Final = PROGRAM.ljust(2048, b"\0") + bytes(range(1, 201))


def copied(watch: Watch | None = None, wave: Wave | None = None) -> MachineRun:
    """Two copies of BEATS beats."""
    return run_program(MINI, IMAGE, 4096, 10_000, limit_s=300.0, watch=watch, wave=wave)


def test_watching_changes_nothing_and_sees_every_cycle(tmp_path: Path) -> None:
    plain = copied()
    run = copied(Watch(1, marks=(0, 3)), Wave(tmp_path / "wave.fst"))
    assert (run.memory, run.cycles, run.reads, run.writes) == (plain.memory, plain.cycles, plain.reads, plain.writes)
    assert plain.activity is None and run.activity is not None
    activity = run.activity
    assert activity.units == UNITS and activity.counts.shape == (run.cycles, len(UNITS), len(State))
    assert (activity.counts.sum(axis=2) == 1).all()
    busy = dict(zip(UNITS, activity.counts[:, :, State.BUSY].sum(axis=0).tolist(), strict=True))
    assert busy["writer"] >= 2 * BEATS and busy["reader"] >= 2 * BEATS
    assert max(run.reads, run.writes) <= busy["external memory"] <= 2 * run.reads + run.writes
    assert not any(busy[unit] for unit in ("array", "table loads", "softmax", "encoder", "near memory"))
    first, second = activity.marks
    assert first == 0 and plain.cycles / 3 < second < 2 * plain.cycles / 3
    waiting = activity.counts[:, UNITS.index("control"), State.STALLED_OUTPUT]
    assert waiting.sum() > BEATS  # for the WRITEs, at every WAIT


def test_windows_sum_up_cycles(tmp_path: Path) -> None:
    single = copied(Watch(1), Wave(tmp_path / "wave.fst")).activity
    tens = copied(Watch(10), Wave(tmp_path / "wave.fst")).activity
    assert single is not None and tens is not None
    starts = np.arange(0, len(single.counts), 10)
    np.testing.assert_array_equal(tens.counts, np.add.reduceat(single.counts, starts))
    assert tens.window == 10


def fst_header(path: Path) -> tuple[int, int, int, int]:
    """Start and end in ns, and numbers of scopes and of variables, of an FST file."""
    content = path.read_bytes()
    kind, _, start, end, _, _, scopes, _, variables = struct.unpack_from(">BQQQdQQQQ", content)
    assert kind == 0 and content[73] == 256 - 9  # the header's block; times are ns
    return start, end, scopes, variables


def test_waveform_of_some_cycles(tmp_path: Path) -> None:
    path = tmp_path / "wave.fst"
    copied(Watch(), Wave(path, 20, 30))
    start, end, scopes, variables = fst_header(path)
    assert (start, end) == (200, 300)
    assert scopes > 50 and variables > 1000
    some = path.stat().st_size
    copied(Watch(), Wave(path))
    assert fst_header(path)[0] <= 10 and path.stat().st_size > some


@pytest.fixture(scope="module")
def program() -> Program:
    toy = toy_sam_vit()
    return compile_encoder(toy.parameters, toy.architecture, MINI)


NORM: Final = 2
DENSE: Final = 3


def test_timeline_of_layers(program: Program, tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    probes = Probes(trace=path, wave=tmp_path / "wave.fst", wave_cycles=(0, 5))
    picture = toy_sam_vit().picture
    runs: list[LayerRun] = [run for _, run in run_layers(program, picture, [NORM, DENSE], probes=probes)]
    assert [run.differing_bytes for run in runs] == [0, 0]
    write_trace(path, trace_of_layers(program, runs))
    events = read_events(path)
    cycles = sum(run.cycles for run in runs)
    totals = check_events(events, cycles)
    assert list(totals) == list(UNITS)
    assert totals["array"][State.BUSY] > 0.2 * runs[1].cycles
    assert 0 < totals["table loads"][State.BUSY] < runs[1].cycles
    assert totals["layer norm"][State.BUSY] > 0.5 * runs[0].cycles
    layers = [(event["name"], event["args"]["cycles"]) for event in events if event.get("cat") == "track"]
    assert layers == [(run.layer.names[-1], run.cycles) for run in runs]
    activity = runs[1].activity
    assert activity is not None and 1024 <= len(activity.counts) < 2048
    assert activity.window.bit_count() == 1 and activity.window > 1


def test_cycles_behind_the_end_of_the_run(program: Program, tmp_path: Path) -> None:
    probes = Probes(trace=tmp_path / "t", wave=tmp_path / "wave.fst", wave_cycles=(1 << 40, None))
    with pytest.raises(UserError, match=r"--wave-cycles begins at 1099511627776, but the run has \d+ cycles; nothing"):
        list(run_layers(program, toy_sam_vit().picture, [NORM], probes=probes))
    assert list(tmp_path.iterdir()) == []


def test_a_waveform_is_of_one_layer_and_files_are_apart(tmp_path: Path) -> None:
    wave, record = Probes(wave=tmp_path / "wave.fst"), tmp_path / "layers.json"
    check_probes(wave, record, range(3, 4), 9)
    with pytest.raises(UserError, match=r"--wave is of one layer; give --layers N:N\+1 with N in 0..8"):
        check_probes(wave, record, range(3, 5), 9)
    with pytest.raises(UserError, match=r"layers.json; name another file for --trace or --wave"):
        check_probes(Probes(trace=record), record, range(9), 9)


def test_the_verilog_of_an_unwatched_machine_has_no_trace_of_it() -> None:
    def pins(*, watched: bool) -> list[str]:
        source = verilog_of(MachinePins(MINI, patience=PATIENCE, watched=watched), "machine")
        assert ("o_activity" in source) == watched
        return source.partition("module machine(")[2].partition(")")[0].split(", ")

    assert {*pins(watched=True)} - {*pins(watched=False)} == {"o_activity", "o_command"}


def test_neighbours_of_equal_shares_are_one_span() -> None:
    counts = np.array([[0, 4, 0, 0], [0, 4, 0, 0], [1, 0, 3, 0], [2, 0, 6, 0], [0, 2, 0, 0]])
    activity = merged(np.array([0, 4, 8, 12, 20]), counts)
    assert activity.starts.tolist() == [0, 8, 20]
    assert activity.states.tolist() == [State.BUSY, State.STALLED_INPUT, State.BUSY]
    assert activity.counts is not None and activity.counts.tolist() == [[0, 8, 0, 0], [3, 0, 9, 0], [0, 2, 0, 0]]


def test_runs_stand_one_behind_the_other() -> None:
    def activity(window: int, *rows: list[int], marks: tuple[int, ...]) -> Activity:
        return Activity(window, ("array",), np.array(rows)[:, None], marks)

    first = activity(4, [4, 0, 0, 0], [1, 1, 0, 0], marks=(0, 5))
    second = activity(2, [0, 2, 0, 0], marks=(0,))
    trace = trace_of_runs("two", [(first, ["a", "b"]), (second, ["c"])])
    assert trace.cycles == 8
    assert trace.units["array"].starts.tolist() == [0, 4, 6]
    spans = [(span.name, span.start, span.stop) for span in trace.tracks["layers"]]
    assert spans == [("a", 0, 5), ("b", 5, 6), ("c", 6, 8)]


def decompressed(block: bytes) -> bytes:
    """By the LZ4 block format."""
    found, at = bytearray(), 0

    def length(nibble: int) -> int:
        nonlocal at
        total, more = nibble, nibble == 15
        while more:
            total, more, at = total + block[at], block[at] == 255, at + 1
        return total

    while True:
        token = block[at]
        at += 1
        literals = length(token >> 4)
        found += block[at : at + literals]
        at += literals
        if at == len(block):
            return bytes(found)
        distance = block[at] | block[at + 1] << 8
        at += 2
        matched = length(token & 15) + 4
        for _ in range(matched):
            found.append(found[-distance])


MAIN: Final = """
#include <cstdio>
#include "lz4.h"
int main() {
    std::vector<char> in(1 << 20), out(LZ4_compressBound(1 << 20));
    const int size = int(std::fread(in.data(), 1, in.size(), stdin));
    if (LZ4_compress_default(in.data(), out.data(), size, LZ4_compressBound(size) - 1) != 0) return 1;
    const int packed = LZ4_compress_default(in.data(), out.data(), size, int(out.size()));
    std::fwrite(out.data(), 1, packed, stdout);
}
"""


def test_lz4_blocks_are_read_back(tmp_path: Path) -> None:
    (tmp_path / "main.cpp").write_text(MAIN)
    shutil.copy(LZ4, tmp_path)
    subprocess.run(["g++", "-std=c++20", "-o", tmp_path / "pack", tmp_path / "main.cpp"], check=True)
    random = np.random.default_rng(4)

    def packed(content: bytes) -> bytes:
        return subprocess.run([tmp_path / "pack"], input=content, capture_output=True, check=True).stdout

    noise: NDArray[np.uint8] = random.integers(0, 256, 70_000).astype(np.uint8)
    few = random.integers(0, 3, 5000).astype(np.uint8).tobytes()
    for content in [b"", b"a", b"abcdabcdabcd", b"ab" * 4000, noise.tobytes() * 2, few, json.dumps(UNITS).encode() * 9]:
        assert decompressed(packed(content)) == content
    assert len(packed(b"ab" * 4000)) < 60 and len(packed(few)) < 4000
