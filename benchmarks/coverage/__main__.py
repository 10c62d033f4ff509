"""Runs the tests of the hardware's units and counts the statements that they reach and the functional points they hit.

A statement is a line of hdl/ on which an assignment of Amaranth begins; it is reached when the branch that it stands in
is taken at a clock edge of some simulation. Lines that no test elaborates count as not reached. A point is hit when its
condition, on signals of the hardware itself, is true at a clock edge. The tests compare with models, and must pass.
With --verilog: Verilator's line coverage of the Verilog that the benches of sim/ compile, instead.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.coverage.points import POINTS
from benchmarks.coverage.recorder import FILE_VARIABLE
from benchmarks.coverage.statements import ROOT, Line, statement_lines
from sim.contract.errors import UserError
from sim.record import write_json

UNITS: Final = {
    "array": ("hdl/array/*.py",),
    "rescale": ("hdl/rescale.py", "hdl/finish.py"),
    "matmul": ("hdl/matmul.py", "hdl/sequencer.py", "hdl/output_fifo.py"),
    "softmax": ("hdl/softmax/*.py",),
    "LayerNorm": ("hdl/layer_norm/*.py",),
    "encoder": ("hdl/vector/encoder.py",),
    "residual": ("hdl/vector/residual.py",),
    "activation": ("hdl/vector/activation.py",),
    "depthwise": ("hdl/vector/depthwise.py", "hdl/vector/raster.py"),
    "parts of vector units": ("hdl/vector/right_shift.py", "hdl/vector/credit_fifo.py"),
    "attention": ("hdl/attention/*.py",),
    "activity": ("hdl/activity/*.py",),
    "link": ("hdl/link/*.py",),
    "primitives": ("hdl/ecp5/*.py", "hdl/pipeline.py"),
}
"""Sources of each unit, as patterns relative to the root."""

TESTS: Final = (
    "tests/hdl/activity",
    "tests/hdl/array",
    "tests/hdl/attention",
    "tests/hdl/ecp5",
    "tests/hdl/layer_norm",
    "tests/hdl/link",
    "tests/hdl/softmax",
    "tests/hdl/vector",
    "tests/hdl/test_matmul.py",
    "tests/hdl/test_rescale.py",
)

VERILOG_TESTS: Final = tuple(f"sim/bench/test_{name}.py" for name in ("matmul", "softmax", "layer_norm", "vector"))
WITHOUT: Final = ("-k", "not real and not lost_carry")
"""Layers of an exported model, which take a quantizer's run, and a bench that compiles broken Verilog."""


def record(tests: Sequence[str], plugin: str = "recorder") -> dict[str, Any]:
    """What tests reach. Raises UserError when one of them fails."""
    with tempfile.TemporaryDirectory(prefix="nibblesam-coverage-") as scratch:
        file = Path(scratch) / "found.json"
        command = [sys.executable, "-m", "pytest", "-p", f"benchmarks.coverage.{plugin}", "-p", "no:cacheprovider"]
        environment = {**os.environ, FILE_VARIABLE: str(file), "OMP_NUM_THREADS": "1"}
        status = subprocess.run([*command, *tests], cwd=ROOT, env=environment, check=False).returncode
        if status:
            raise UserError("a test failed, so what it reached says nothing; mend it first")
        found: dict[str, Any] = json.loads(file.read_text())
    return found


def figures(found: dict[str, Any]) -> dict[str, Any]:
    """Lines by unit, and of every declared point the first test that hit it, None where none did."""
    reached: set[Line] = {(file, line) for file, line in found["lines"]}
    units = {}
    for unit, patterns in UNITS.items():
        files = sorted(path for pattern in patterns for path in ROOT.glob(pattern))
        lines = {line for path in files for line in statement_lines(path)}
        missed = [f"{file}:{line}" for file, line in sorted(lines - reached)]
        units[unit] = {"lines": len(lines), "reached": len(lines & reached), "missed": missed}
    return {"units": units, "points": {point.title: found["points"].get(point.title) for point in POINTS}}


def table(result: dict[str, Any]) -> str:
    """Units with their lines and points, then all that was missed."""
    rows = []
    units = result["units"]
    for unit, one in units.items():
        rows.append(
            f"{unit:24} {one['reached']:4} of {one['lines']:4} statements  {one['reached'] / one['lines']:6.1%}"
        )
    lines, reached = (sum(one[name] for one in units.values()) for name in ("lines", "reached"))
    rows.append(f"{'all':24} {reached:4} of {lines:4} statements  {reached / lines:6.1%}")
    points = result["points"]
    for unit in dict.fromkeys(point.unit for point in POINTS):
        titles = [point.title for point in POINTS if point.unit == unit]
        rows.append(f"{unit:24} {sum(points[title] is not None for title in titles):4} of {len(titles):4} points")
    rows.append(f"{'all':24} {sum(test is not None for test in points.values()):4} of {len(points):4} points")
    rows += [f"not reached: {place}" for one in units.values() for place in one["missed"]]
    rows += [f"not hit: {title}" for title, test in points.items() if test is None]
    return "\n".join(rows)


def verilog_table(found: dict[str, Any]) -> str:
    """Top modules with their lines, then all that was missed."""
    rows = [
        f"{top:24} {one['reached']:5} of {one['points']:5} lines and branches  {one['reached'] / one['points']:6.1%}"
        f"  ({one['models']} compiled)"
        for top, one in found.items()
    ]
    return "\n".join([*rows, *(f"not reached: {place}" for one in found.values() for place in one["missed"])])


def main(argv: list[str] | None = None) -> int:
    """Run the command line; 0 when at least 90 % of the statements are reached and every point is hit."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coverage", description=__doc__)
    parser.add_argument("--tests", nargs="+", metavar="TEST", help="instead of all tests of the units")
    parser.add_argument("--verilog", action="store_true", help="Verilator's line coverage of the benches of sim/")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the figures, with the test that hit each point"
    )
    arguments = parser.parse_args(argv)
    try:
        if arguments.verilog:
            found = record([*WITHOUT, *(arguments.tests or VERILOG_TESTS)], "verilated")
            if arguments.json:
                write_json(arguments.json, found)
            print(verilog_table(found))
            return 0 if all(one["reached"] >= 0.9 * one["points"] for one in found.values()) else 1
        result = figures(record(arguments.tests or TESTS))
        if arguments.json:
            write_json(arguments.json, result)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(table(result))
    lines, reached = (sum(one[name] for one in result["units"].values()) for name in ("lines", "reached"))
    return 0 if reached >= 0.9 * lines and all(result["points"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
