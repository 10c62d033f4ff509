"""What `python -m sim cycles` shows besides figures: the lower bound of traffic, the timeline, the roofline."""

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from sim.__main__ import main
from sim.compiler.compile import Placed
from sim.cycles.memory import memory_rate
from sim.cycles.model import LayerCycles
from sim.cycles.once import Once
from sim.cycles.roofline import roofline
from sim.cycles.trace import model_trace
from sim.machine.commands import Command, Opcode
from sim.machine.ports import Port
from sim.machine.presets import PRESETS
from sim.trace import check_events, read_events, write_trace

TINY = PRESETS["tiny"]
BEAT = TINY.beat_bytes
NEAR = TINY.memory_bytes
WAIT = Command(Opcode.WAIT)


def read(address: int, counts: tuple[int, int, int, int], strides: tuple[int, int, int] = (0, 0, 0)) -> Command:
    return Command(Opcode.READ, Port.COPY, address, counts, strides)


def write(address: int, beats: int) -> Command:
    return Command(Opcode.WRITE, Port.COPIED, address, (beats, 1, 1, 1))


def once(*commands: Command, result_beats: int = 10) -> int:
    """Beats of a layer with a result of so many."""
    counted = Once(TINY, Placed(0, BEAT, (result_beats, TINY.lanes), 0))
    for command in commands:
        counted.do(command)
    return counted.beats - result_beats


def test_beats_that_are_read_again_count_once() -> None:
    rows = read(0, (4, 3, 5, 1), (2 * BEAT, 0, 0))
    assert once(rows) == 8  # three rows of four beats, each two beats on, five times over
    assert once(rows, read(7 * BEAT, (2, 1, 1, 1))) == 9
    assert once(replace(rows, address=NEAR)) == 0


def test_what_the_layer_wrote_itself_does_not_count() -> None:
    assert once(write(0, 8), WAIT, read(4 * BEAT, (8, 1, 1, 1))) == 4
    assert once(write(NEAR, 8), WAIT, read(4 * BEAT, (8, 1, 1, 1))) == 8


def test_of_operands_in_either_memory_one_counts() -> None:
    assert once(read(0, (1, 2, 6, 1), (NEAR, BEAT, 0))) == 6
    assert once(read(NEAR, (1, 2, 6, 1), (-NEAR, BEAT, 0))) == 6


def test_an_operand_under_the_result_counts() -> None:
    """The WRITE comes before the READs that cause its data; these still see what was there before."""
    assert once(write(0, 8), read(0, (8, 1, 1, 1)), WAIT) == 8
    assert once(write(0, 8), read(0, (8, 1, 1, 1)), WAIT, read(0, (8, 1, 1, 1))) == 8


def test_the_result_counts_with_its_pitch() -> None:
    assert Once(TINY, Placed(0, 3 * BEAT, (2, 5, TINY.lanes), 0)).beats == 30


DENSE = LayerCycles(
    *(("norm", "dense"), "chain", 1000, 64000, 10, 250, 400, 20, 6000, 400, 0, 320, 0, 0, 3200, 0, 200),
    busy={"array": 250.0, "encoder": 700.4, "external memory": 1000.6},
)
ADD = LayerCycles(
    *(("add",), "Residual", 500, 0, 0, 0, 480, 0, 4000, 3680, 0, 0, 0, 0, 7680, 0, 480),
    busy={"array": 0.0, "encoder": 0.0, "external memory": 480.0},
)


def test_timeline_of_the_model(tmp_path: Path) -> None:
    write_trace(tmp_path / "trace.json", model_trace("vit", [DENSE, ADD]))
    events = read_events(tmp_path / "trace.json")
    totals = check_events(events, 1500)
    assert {unit: int(states[1]) for unit, states in totals.items()} == {
        "array": 250,
        "encoder": 700,
        "external memory": 1480,  # never more than the layer has
    }
    layers = [event for event in events if event.get("cat") == "track"]
    assert [(layer["name"], layer["args"]["cycle"], layer["args"]["cycles"]) for layer in layers] == [
        ("dense", 0, 1000),
        ("add", 1000, 500),
    ]
    assert layers[0]["args"]["of the lower bound"] == 4.0
    assert layers[0]["args"]["operations"] == "norm, dense"


def test_roofline() -> None:
    memory = memory_rate("onchip", TINY)
    small = replace(DENSE, names=("<small>",), cycles=800)
    svg = roofline("vit & tiny", [DENSE, ADD, small], TINY, memory)
    tree = ElementTree.fromstring(svg)
    space = "{http://www.w3.org/2000/svg}"
    circles = tree.findall(f"{space}circle")
    texts = [text.text for text in tree.findall(f"{space}text")]
    assert len(circles) == 2 and "array: 256 MAC/cycle" in texts and "memory: 16 B/cycle" in texts
    assert {"dense", "<small>", "vit & tiny"} <= set(texts)
    assert any("1 layers without MACs (22% of the cycles) are not shown" in (text or "") for text in texts)
    title = circles[0].find(f"{space}title")
    assert title is not None and title.text == (
        "dense: 1,000 cycles (43.5%), 10.0 MAC/B, 64.0 MAC/cycle, 4.00 of the lower bound"
    )
    again = roofline("vit", [DENSE, replace(DENSE, names=("again",)), small], TINY, memory)
    assert "again: 1,000 cycles" in again and ">again</text>" not in again  # it would cover `dense`
    # Below both roofs: pixels grow downwards.
    line = tree.find(f"{space}polyline")
    assert line is not None
    points = np.array([point.split(",") for point in line.attrib["points"].split()], float)
    for circle in circles:
        at, value = float(circle.attrib["cx"]), float(circle.attrib["cy"])
        assert value >= np.interp(at, points[:, 0], points[:, 1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--roofline", "roof.png"], "roof.png is written as SVG; give it a name that ends in .svg"),
        (["--trace", "one", "--json", "one"], "--json, --trace and --roofline would write the same file"),
        (["--trace", "file/trace.json"], "cannot write file/trace.json: "),
    ],
)
def test_outputs_that_cannot_be(
    options: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    assert main(["cycles", "model", "--preset", "tiny", *options]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
