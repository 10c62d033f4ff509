import json
from pathlib import Path
from typing import Any

import pytest

from boards.ulx3s.report import ClockTiming, judge, parse_timing, parse_utilization, read_report, render
from sim.contract.errors import UserError

LOG = """\
Info: Device utilisation:
Info: \t          TRELLIS_IO:       6/    365     1%
Info: \t              DP16KD:       8/    208     3%
Info: \t          MULT18X18D:       4/    156     2%
Info: \t          TRELLIS_FF:    3079/  83640     3%
Info: \t        TRELLIS_COMB:    4622/  83640     5%
Info: \t        TRELLIS_RAMW:     162/  10455     1%
"""


def timing(reached: float, constraint: float = 100.0) -> dict[str, Any]:
    hop = {"delay": 4.5, "type": "routing", "from": {"cell": "left", "port": "Q"}, "to": {"cell": "count", "port": "D"}}
    clock_to_q = {"delay": 0.5, "type": "clk-to-q", "from": {"cell": "left", "port": "Q"}, "to": hop["from"]}
    return {
        "fmax": {"$glbnet$clk": {"achieved": reached, "constraint": constraint}},
        "critical_paths": [
            {"from": "<async>", "to": "posedge $glbnet$clk", "path": [clock_to_q]},
            {"from": "posedge $glbnet$clk", "to": "posedge $glbnet$clk", "path": [clock_to_q, hop]},
        ],
    }


def test_utilization_is_read_from_the_log() -> None:
    assert parse_utilization(LOG) == {
        "comb": {"used": 4622, "available": 83640},
        "ff": {"used": 3079, "available": 83640},
        "ramw": {"used": 162, "available": 10455},
        "dp16kd": {"used": 8, "available": 208},
        "mult18x18d": {"used": 4, "available": 156},
    }
    with pytest.raises(UserError, match="lists no TRELLIS_RAMW"):
        parse_utilization(LOG.replace("TRELLIS_RAMW", "TRELLIS_ROM"))


def test_a_clock_that_meets_its_target_passes() -> None:
    report = timing(100.0)
    clocks = parse_timing(report, target_mhz=100)
    assert clocks == [ClockTiming("$glbnet$clk", 100.0, 100.0)]
    assert judge(clocks, report) is None


def test_a_missed_clock_says_by_how_much_and_where() -> None:
    report = timing(93.75)
    verdict = judge(parse_timing(report, target_mhz=100), report)
    assert verdict is not None
    line, path = verdict
    assert "reaches 93.75 MHz, 6.25 MHz (6.2%) short of its target 100 MHz" in line
    assert path == ["0.50 clk-to-q left.Q -> left.Q", "4.50 routing left.Q -> count.D"]


@pytest.mark.parametrize("report", [timing(120.0, constraint=12.0), {"fmax": {}}, {}])
def test_a_build_whose_target_was_not_pinned_does_not_pass(report: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="no clock was constrained to 100 MHz"):
        parse_timing(report, target_mhz=100)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"schema_version": 99}'])
def test_what_is_no_report_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "report.json"
    path.write_text(content)
    with pytest.raises(UserError, match="build again"):
        read_report(path)


def test_render_shows_every_figure() -> None:
    counts = parse_utilization(LOG)
    report = {
        "preset": "tiny",
        "device": "85F",
        "geometry": {"rows": 16, "columns": 4},
        "macs_per_cycle": 64,
        "seed": 1,
        "resources": counts,
        "target_mhz": 100.0,
        "reached_mhz": 116.85,
        "clocks": [{"name": "clk", "constraint_mhz": 100.0, "reached_mhz": 116.85}],
        "seconds": {"synthesize": 15.0},
    }
    text = render(json.loads(json.dumps(report)))
    for figure in ("16 x 4", "64 MAC", "4622", "3079", "162", "116.85 MHz", "target 100 MHz, met", "synthesize 15 s"):
        assert figure in text
    assert "packed only" in render({**report, "reached_mhz": None, "clocks": []})
