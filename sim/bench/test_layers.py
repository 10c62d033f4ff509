"""The record of layers that have run: kept for the same program, hardware, memory and picture alone."""

import json
from pathlib import Path
from typing import Any

import pytest

from sim.bench.layers import known_results
from sim.contract.errors import UserError

IDENTITY = {"preset": "tiny", "hardware_sha256": "ab", "memory": "onchip", "weight_source_mb_s": None}


def record(folder: Path, **changes: Any) -> Path:
    path = folder / "layers.json"
    path.write_text(json.dumps({**IDENTITY, **changes, "layers": {"3": {"cycles": 5}}}))
    return path


def test_results_of_the_same_run_are_known(tmp_path: Path) -> None:
    assert known_results(tmp_path / "none.json", IDENTITY) == {}
    assert known_results(record(tmp_path), IDENTITY) == {"3": {"cycles": 5}}


@pytest.mark.parametrize("change", [{"hardware_sha256": "cd"}, {"memory": "sdram"}, {"weight_source_mb_s": 5.0}])
def test_results_of_another_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(
        UserError, match=r"layers.json is of another program, hardware, memory or picture; name another"
    ):
        known_results(record(tmp_path, **change), IDENTITY)


def test_a_file_that_is_no_record_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "layers.json"
    path.write_text("[1, 2")
    with pytest.raises(UserError, match=r"is of another program"):
        known_results(path, IDENTITY)
