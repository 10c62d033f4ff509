"""The benchmark of the SDRAM controller: its cases on few bytes, and its report."""

import json
from pathlib import Path

import pytest

from benchmarks.sdram import cases, in_turns, main
from hdl.memory.sdram.address import AddressMap
from hdl.memory.sdram.timing import PARTS


def test_figures_of_a_short_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "sdram.json"
    assert main(["--kilobytes", "2", "--beat-bits", "256", "--json", str(file)]) == 0
    found = {one["case"]: one for one in json.loads(file.read_text())["cases"]}
    assert len(capsys.readouterr().out.splitlines()) == len(found) == 8
    assert 0.97 < found["read"]["busy"] <= 1
    assert 0.97 < found["write"]["busy"] <= 1
    turns = [found[f"read and write in turns of {size} bytes"]["cycles"] for size in (64, 1024)]
    assert turns[0] > turns[1] > 1024


def test_turns() -> None:
    assert in_turns([(0, None), (1, None)], [(8, 1), (9, 1)], 1) == [(0, None), (8, 1), (1, None), (9, 1)]


def test_streams_meet_in_one_bank_or_in_none() -> None:
    address = AddressMap(PARTS["AS4C16M16SA-6"], 128)
    found = cases(address, 512, seed=0)
    bank_cells = address.part.rows * address.part.columns

    def banks(name: str) -> set[bool]:
        numbers = [address.cell(place) // bank_cells for place, _ in found[name]]
        return {one == other for one, other in zip(numbers[:64:64], numbers[64::64], strict=False)}

    assert banks("the same, both in one bank, 1024 bytes") == {True}
    assert banks("read and write in turns of 1024 bytes") == {False}


@pytest.mark.parametrize(
    ("option", "says"), [(["--mhz", "200"], "at most 166.7"), (["--kilobytes", "0"], "must be in")]
)
def test_bad_input_is_one_line(option: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(option) == 1
    assert says in capsys.readouterr().err.splitlines()[-1]
