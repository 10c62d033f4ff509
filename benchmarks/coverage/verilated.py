"""Plugin of pytest (`-p benchmarks.coverage.verilated`): Verilator's line coverage of what the benches of sim/ compile.

Writes {top: {"models": n, "points": n, "reached": n, "missed": [...]}} to the file that the environment names. Every
compiled model counts, each with its own parameters; a point of a module counts once, however many instances it has.
Left out is `if (a constant of the back end) begin end`, which Yosys writes into every combinational block so that
simulators run it at time zero, and which never is true.
"""

import json
import os
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from sim.bench import player, verilator
from sim.bench.verilator import VerilatedModel

FILE_VARIABLE: Final = "NIBBLESAM_COVERAGE_FILE"

RECORD: Final = re.compile(r"^C '(.*)' (\d+)$")

START: Final = r"if (\$auto$verilog_backend"

Counts = dict[tuple[str, ...], int]


def counts_of(text: str, source: str) -> Counts:
    """How often each point of a coverage file was passed: by module, line, column and kind of branch.

    text: the coverage file. source: the Verilog it is of.
    """
    counts: Counts = defaultdict(int)
    artificial = {str(number) for number, line in enumerate(source.splitlines(), 1) if START in line}
    for line in text.splitlines():
        found = RECORD.match(line)
        if found is None:
            continue
        fields = dict(part.split("\x02", 1) for part in found[1].split("\x01") if part)
        if fields.get("page", "").startswith(("v_line/", "v_branch/")) and fields.get("l") not in artificial:
            key = tuple(fields.get(name, "") for name in ("page", "l", "n", "o"))
            counts[key] += int(found[2])
    return dict(counts)


class _Collector:
    """Counts by top module and compiled model."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, Path], Counts] = defaultdict(lambda: defaultdict(int))

    def install(self) -> None:
        """Compile with coverage, and read what every simulation leaves."""
        setattr(verilator, "BUILD_ARGUMENTS", (*verilator.BUILD_ARGUMENTS, "--coverage-line"))  # noqa: B010
        original = player.run_cocotb

        def run(
            model: VerilatedModel, module: str, folder: Path, environment: Mapping[str, str], **settings: Any
        ) -> None:
            original(model, module, folder, environment, **settings)
            counts = self._counts[model.top, model.folder]
            source = (model.folder / f"{model.top}.v").read_text()
            for key, count in counts_of((folder / "coverage.dat").read_text(), source).items():
                counts[key] += count

        setattr(player, "run_cocotb", run)  # noqa: B010

    def figures(self) -> dict[str, Any]:
        """Points by top module."""
        result: dict[str, Any] = {}
        for (top, _), counts in self._counts.items():
            one = result.setdefault(top, {"models": 0, "points": 0, "reached": 0, "missed": []})
            one["models"] += 1
            one["points"] += len(counts)
            one["reached"] += sum(count > 0 for count in counts.values())
            one["missed"] += [" ".join(key) for key, count in sorted(counts.items()) if not count]
        return result


COLLECTOR = _Collector()


def pytest_configure() -> None:
    """Before any bench is imported."""
    COLLECTOR.install()


def pytest_sessionfinish() -> None:
    """Write what was reached."""
    Path(os.environ[FILE_VARIABLE]).write_text(json.dumps(COLLECTOR.figures()))
