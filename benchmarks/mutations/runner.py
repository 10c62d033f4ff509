"""Runs named tests in a copy of the tree, and says how they ended."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

from benchmarks.mutations.catalogue import ROOT, Edit, mutated

FOLDERS: Final = ("benchmarks", "boards", "demo", "hdl", "quant", "sim", "tests")
FILES: Final = ("pyproject.toml", "conftest.py", "requirements.lock", "assets.lock")
LIMIT_S: Final = 600.0

ASSERTION: Final = re.compile(r"^(AssertionError|assert )")
OWN_LIMIT: Final = re.compile(r"no transfer in|not taken in|it hangs|still sending|dead-lock")
"""What benches say when they give up waiting; it comes out of an assertion of theirs."""


@dataclass(frozen=True)
class Result:
    """How tests ended. verdict: `green`; `assertion`, a comparison failed; `patience`, a bench gave up waiting;
    `broken`, something else went wrong, as a design that cannot be built; `hung`, the limit of the run was reached.

    test, message: of the first that failed.
    """

    verdict: str
    test: str
    message: str
    seconds: float

    @property
    def caught(self) -> bool:
        """A test has noticed wrong behaviour."""
        return self.verdict in ("assertion", "patience")


@contextmanager
def copy_of_the_tree(root: Path = ROOT) -> Iterator[Path]:
    """A temporary folder with everything that tests of the hardware read."""
    with tempfile.TemporaryDirectory(prefix="nibblesam-mutations-") as scratch:
        copy = Path(scratch)
        for folder in FOLDERS:
            shutil.copytree(root / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
        for file in FILES:
            shutil.copy(root / file, copy / file)
        yield copy


def run_tests(copy: Path, tests: Sequence[str], limit_s: float = LIMIT_S) -> Result:
    """Run tests in a copy until the first fails."""
    report = copy / "report.xml"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", f"--junitxml={report}", *tests]
    # Compiled modules would be told from edited ones by a time of whole seconds.
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    log = copy / "tests.log"
    start = time.monotonic()
    with log.open("w") as output:
        child = subprocess.Popen(
            command, cwd=copy, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            child.wait(limit_s)
        except subprocess.TimeoutExpired:
            return Result("hung", " ".join(tests), f"not done after {limit_s:.0f} s", time.monotonic() - start)
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
    seconds = time.monotonic() - start
    if child.returncode == 0:
        return Result("green", "", "", seconds)
    last_line = log.read_text().strip().splitlines()[-1]
    if not report.is_file():
        return Result("broken", " ".join(tests), last_line, seconds)
    return _first_failure(report, last_line, seconds)


def run_edit(copy: Path, edit: Edit, limit_s: float = LIMIT_S) -> Result:
    """Make an edit in a copy, run its tests, and take it back."""
    file = copy / edit.file
    original = file.read_text()
    file.write_text(mutated(edit, copy))
    try:
        return run_tests(copy, edit.tests, limit_s)
    finally:
        file.write_text(original)


def _first_failure(report: Path, last_line: str, seconds: float) -> Result:
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        for kind in ("failure", "error"):
            found = case.find(kind)
            if found is not None:
                message = found.get("message", "").splitlines()[0]
                verdict = "broken"
                if kind == "failure" and ASSERTION.match(message):
                    verdict = "patience" if OWN_LIMIT.search(message) else "assertion"
                return Result(verdict, case.get("name", ""), message[:200], seconds)
    return Result("broken", "", last_line, seconds)
