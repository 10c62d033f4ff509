"""Finds and runs command-line tools, with a sign of life while they work."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

from sim.contract.errors import UserError

HEARTBEAT_SECONDS = 10.0
"""Time between two lines that say a tool is still at work."""


def find_tool(name: str) -> Path:
    """The console script `name`: beside the running interpreter first, then on PATH. UserError if there is none."""
    beside = Path(sys.executable).parent / name
    if beside.is_file():
        return beside
    found = shutil.which(name)
    if found is None:
        raise UserError(f"{name} is neither beside {sys.executable} nor on PATH; install it with `pip install {name}`")
    return Path(found)


def tool_version(name: str) -> str:
    """First line of `name --version` (the tools print it to either stream)."""
    result = subprocess.run([find_tool(name), "--version"], capture_output=True, text=True, check=False)
    lines = [line for line in (result.stdout + result.stderr).splitlines() if "ersion" in line or "Yosys" in line]
    return lines[-1].strip() if lines else "unknown"


def run_tool(name: str, arguments: list[str], folder: Path, log: Path) -> int:
    """Run a tool in `folder`, both its streams to the file `log`; returns its exit status.

    Every HEARTBEAT_SECONDS a line on stderr says how long it has run and what it last wrote.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            [find_tool(name), *arguments], cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
        started = time.monotonic()
        try:
            while True:
                try:
                    return process.wait(timeout=HEARTBEAT_SECONDS)
                except subprocess.TimeoutExpired:
                    line = last_line(log)
                    print(f"{name}: {time.monotonic() - started:.0f} s, {line}", file=sys.stderr, flush=True)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def last_line(log: Path) -> str:
    """The last non-empty line of a log, shortened; empty when there is none."""
    with log.open("rb") as text:
        text.seek(max(0, log.stat().st_size - 2000))
        lines = [line for line in text.read().decode(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip()[:100] if lines else ""
