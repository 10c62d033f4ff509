"""From a preset to a bitstream: elaborate, synthesize, place and route, judge the timing, pack.

The platform class supplies pins and constraints; the tools are driven from here, so that the target frequency is
always pinned, a missed one is always an error, and nothing is asked for that a build does not use.
"""

import hashlib
import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from amaranth_boards import ulx3s

from hdl.link.uart import baud_divisor
from sim.contract.errors import UserError

from .pll import PllSettings, find_pll
from .presets import BuildPreset, device_option
from .report import RESOURCES, SCHEMA_VERSION, clocks_as_json, judge, parse_timing, parse_utilization
from .tools import TOOLS, Heartbeat, find_tool, run_tool, tool_version
from .top import BOARD_CLOCK_MHZ, Top

__all__ = ["build", "elaborate", "write_atomically"]

BITSTREAM: Final = "top.bit"
REPORT: Final = "report.json"
FAILED_REPORT: Final = "report.failed.json"

# Amaranth's memories promise what happens when one address is read and written at once. Nothing here does that
# (reads are disabled while writing), so the registers and multiplexers that keep the promise are left out.
SYNTHESIS_SCRIPT: Final = """\
read_rtlil top.il
hierarchy -top top
proc
opt
memory_nordff
opt_clean
synth_ecp5 -abc9 -nodsp -top top -json top.json
"""


def elaborate(preset: BuildPreset, pll: PllSettings, device: str) -> dict[str, str]:
    """Contents of ``top.il`` (RTLIL) and ``top.lpf`` (pins and the input clock) for one board.

    Raises UserError when the preset's baud rate cannot be made from the clock.
    """
    try:
        divisor = baud_divisor(pll.output_mhz * 1e6, preset.baud)
    except ValueError as error:
        raise UserError(f"preset {preset.name} at {pll.output_mhz:g} MHz: {error}") from error
    top = Top(preset, pll, divisor=divisor)
    platform = getattr(ulx3s, f"ULX3S_{device}_Platform")()
    files = platform.build(top, name="top", do_build=False).files
    return {name: _text(files[name]) for name in ("top.il", "top.lpf")}


def _text(content: str | bytes) -> str:
    return content.decode() if isinstance(content, bytes) else content


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all. Raises UserError when the place cannot be written."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"cannot write {path}: {error.strerror}; choose another place") from error


def _as_json(report: dict[str, Any]) -> bytes:
    return (json.dumps(report, indent=2) + "\n").encode()


def build(
    preset: BuildPreset, *, device: str, target_mhz: float, seed: int, pack_only: bool, folder: Path
) -> dict[str, Any]:
    """Build ``preset`` into ``folder``: ``top.bit`` and ``report.json``; with ``pack_only`` the report alone.

    Returns the report. When a clock misses its target, the report is kept as ``report.failed.json``, there is no
    ``top.bit``, and UserError is raised. Logs and intermediate files stay in ``folder/work``.
    """
    option = device_option(device)
    if not 0 <= seed < 2**31:
        raise UserError(f"seed must be from 0 to {2**31 - 1}, not {seed}")
    pll = find_pll(BOARD_CLOCK_MHZ, target_mhz)
    yosys, nextpnr, ecppack = (find_tool(tool) for tool in TOOLS)
    work = folder / "work"
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {work}: {error.strerror}; choose another --out") from error
    # What an earlier build left must not be taken for the result of this one.
    for name in (BITSTREAM, REPORT, FAILED_REPORT):
        (folder / name).unlink(missing_ok=True)

    heartbeat = Heartbeat()
    seconds: dict[str, float] = {}

    def step(name: str, *command: str | Path) -> None:
        log = work / f"{name.replace(' ', '_')}.log"
        seconds[name] = round(run_tool(name, command, folder=work, log=log, beat=heartbeat.beat), 1)
        heartbeat.done(name, seconds[name])

    start = time.monotonic()
    for name, content in elaborate(preset, pll, device).items():
        (work / name).write_text(content)
    (work / "synthesize.ys").write_text(SYNTHESIS_SCRIPT)
    seconds["elaborate"] = round(time.monotonic() - start, 1)
    heartbeat.done("elaborate", seconds["elaborate"])

    step("synthesize", yosys, "synthesize.ys")
    command: list[str | Path] = [nextpnr, option, "--package", "CABGA381", "--speed", "6"]
    command += ["--json", "top.json", "--lpf", "top.lpf", "--freq", f"{pll.output_mhz:g}", "--seed", str(seed)]
    if pack_only:
        step("pack", *command, "--pack-only")
    else:
        # Timing is judged below, with the path that fails; the tool alone would only stop.
        command += ["--textcfg", "top.config", "--report", "timing.json", "--timing-allow-fail"]
        step("place and route", *command)

    log = work / ("pack.log" if pack_only else "place_and_route.log")
    utilization = parse_utilization(log.read_text(errors="replace"))
    timing = {} if pack_only else json.loads((work / "timing.json").read_text())
    clocks = [] if pack_only else parse_timing(timing, target_mhz=pll.output_mhz)
    report = {
        "schema_version": SCHEMA_VERSION,
        "preset": preset.name,
        "device": f"LFE5U-{device}",
        "geometry": asdict(preset.geometry),
        "macs_per_cycle": preset.macs_per_cycle,
        "baud": preset.baud,
        **{name: utilization[name] for name in RESOURCES},
        "target_mhz": pll.output_mhz,
        "reached_mhz": min((clock.reached_mhz for clock in clocks), default=None),
        "clocks": clocks_as_json(clocks),
        "seed": seed,
        "tools": {tool.name: tool_version(tool) for tool in (yosys, nextpnr)},
        "seconds": seconds,
        "bitstream_sha256": None,
    }
    verdict = judge(clocks, timing)
    if verdict is not None:
        line, path = verdict
        write_atomically(folder / FAILED_REPORT, _as_json(report))
        print("critical path:", *path, sep="\n  ", file=sys.stderr)
        raise UserError(f"{line}; report kept in {folder / FAILED_REPORT}")
    if not pack_only:
        step("bitstream", ecppack, "--compress", "--input", "top.config", "--bit", BITSTREAM)
        bitstream = (work / BITSTREAM).read_bytes()
        report["bitstream_sha256"] = hashlib.sha256(bitstream).hexdigest()
        write_atomically(folder / BITSTREAM, bitstream)
    write_atomically(folder / REPORT, _as_json(report))
    return report
