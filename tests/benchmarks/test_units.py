"""The page of sizes and clocks: whole, made from its record, and made anew only where the RTL changed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import units as bench
from benchmarks.units import (
    CONFIGURATIONS,
    LOADERS,
    PAGE,
    RECORD,
    Configuration,
    fingerprint,
    main,
    measure,
    page,
    read_record,
    utilization,
)
from hdl.units import UNITS

SMALL = Configuration("adder_tree")


def test_every_unit_is_measured_and_every_configuration_is_possible() -> None:
    assert {one.unit for one in CONFIGURATIONS} == set(UNITS)
    for configuration in CONFIGURATIONS:
        assert set(dict(configuration.parameters)) <= set(UNITS[configuration.unit].parameters)
    assert len({one.name for one in CONFIGURATIONS}) == len(CONFIGURATIONS)


def test_the_page_is_that_of_the_record_and_of_nothing_else() -> None:
    assert PAGE.read_text() == page(read_record(RECORD))


class Tools:
    """Stands in for synthesis; counts its work."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.mapped = 0
        self.placed: list[int] = []
        monkeypatch.setattr(bench, "map_to_cells", self.map)
        monkeypatch.setattr(bench, "place", self.place)

    def map(self, *_: Any) -> "Tools":
        self.mapped += 1
        return self

    def place(self, _netlist: Any, *, seed: int, **_: Any) -> "Tools":
        self.placed.append(seed)
        return self

    def as_dict(self) -> dict[str, Any]:
        cells = {"comb": 10, "ff": 30, "harness_ff": 9, "ramw": 0, "bram": 1, "dsp": 2}
        clock = 100.0 + 10 * self.placed[-1]
        return {**cells, "comb_per_mac": 0.02, "target_mhz": 150.0, "fmax_mhz": clock, "tools": {"yosys": "Yosys 1"}}


def test_only_what_is_missing_or_changed_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    tools = Tools(monkeypatch)
    record: dict[str, Any] = {}
    seen: list[str] = []
    measure(record, [SMALL], [1, 2, 3], lambda _: None, seen.append)
    assert tools.mapped == 1 and tools.placed == [1, 2, 3] and len(seen) == 3
    measure(record, [SMALL], [1, 2, 3, 4], lambda _: None, seen.append)
    assert tools.mapped == 2 and tools.placed == [1, 2, 3, 4] and len(seen) == 7
    record[SMALL.name]["fingerprint"] = "of another circuit"
    measure(record, [SMALL], [2], lambda _: None, seen.append)
    assert list(record[SMALL.name]["runs"]) == ["2"]
    line = next(line for line in page(record).splitlines() if line.startswith("| `adder_tree"))
    assert line == "| `adder_tree` | 10 | 0.0 | 21 | 0 | 1 | 2 | heap | 150 | 120 | 120 | 2 |"


def test_median_and_worst_are_of_all_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    Tools(monkeypatch)
    record: dict[str, Any] = {}
    measure(record, [SMALL], [5, 1, 2], lambda _: None, lambda _: None)
    assert "| 150 | 120 | 110 | 5, 1, 2 |" in page(record)


def test_loaders_are_packed_once_and_shown_with_their_cycles(monkeypatch: pytest.MonkeyPatch) -> None:
    tools = Tools(monkeypatch)
    record: dict[str, Any] = {}
    measure(record, [LOADERS[2]], [1, 2, 3], lambda _: None, lambda _: None)
    assert tools.placed == [1]
    # 4 groups of 17 steps, 3 cycles of start and end, one for the RUN command.
    assert utilization(16, 196) == 196 / (196 + 1 + 4 * 17 - 1)
    assert "| 16 | 10 | 0.0 | 67 | 74.2% | 88.3% |" in page(record)


def test_a_fingerprint_is_of_the_circuit_the_clock_and_the_placer() -> None:
    other = Configuration("adder_tree", (("inputs", "4"),))
    assert fingerprint(SMALL) == fingerprint(Configuration("adder_tree", (("inputs", "64"),)))
    slower, placed = replace(SMALL, target_mhz=100.0), replace(SMALL, placer="static")
    assert len({fingerprint(one) for one in (SMALL, other, slower, placed)}) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "nothing"], "--only nothing: no such unit"),
        (["--seeds", "1,x"], "--seeds 1,x is not a list of integers"),
    ],
)
def test_bad_use_is_one_line(arguments: list[str], message: str, capsys: Any) -> None:
    assert main(arguments) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("content", ["{", "[1]", '{"array": {"runs": {}}}'])
def test_a_file_that_is_no_record_is_refused(tmp_path: Path, content: str, capsys: Any) -> None:
    file = tmp_path / "record.json"
    file.write_text(content)
    assert main(["--json", str(file), "--page", str(tmp_path / "page.md")]) == 1
    assert "remove it to measure anew" in capsys.readouterr().err
