"""What a build used and reached: read from the tools' own reports, judged, printed."""

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from sim.contract.errors import UserError

__all__ = [
    "RESOURCES",
    "ClockTiming",
    "critical_path",
    "judge",
    "parse_timing",
    "parse_utilization",
    "read_report",
    "render",
]

RESOURCES: Final = {
    "comb": "TRELLIS_COMB",
    "ff": "TRELLIS_FF",
    "ramw": "TRELLIS_RAMW",
    "dp16kd": "DP16KD",
    "mult18x18d": "MULT18X18D",
}
"""Our name of a resource, and that of place and route."""

SCHEMA_VERSION: Final = 1


@dataclass(frozen=True)
class ClockTiming:
    """One clock: what was asked for and what was reached, in MHz."""

    name: str
    constraint_mhz: float
    reached_mhz: float

    @property
    def met(self) -> bool:
        """Whether the clock reaches what it was asked for."""
        return self.reached_mhz >= self.constraint_mhz


def parse_utilization(log: str) -> dict[str, dict[str, int]]:
    """``{resource: {"used", "available"}}`` from the log of place and route (complete or pack only).

    Raises UserError when a resource of :data:`RESOURCES` is not in the log.
    """
    found: dict[str, dict[str, int]] = {}
    for name, cell in RESOURCES.items():
        lines = re.findall(rf"^Info:\s+{cell}:\s+(\d+)/\s*(\d+)", log, re.MULTILINE)
        if not lines:
            raise UserError(f"the log of place and route does not count {cell}; it stopped before packing")
        used, available = lines[-1]
        found[name] = {"used": int(used), "available": int(available)}
    return found


def parse_timing(report: dict[str, Any], *, target_mhz: float) -> list[ClockTiming]:
    """Every clock of the report of place and route.

    Raises UserError when there is none, or none was asked for ``target_mhz``: a build without its constraint always
    "passes".
    """
    clocks = [
        ClockTiming(name, float(entry["constraint"]), float(entry["achieved"]))
        for name, entry in report.get("fmax", {}).items()
    ]
    if not any(abs(clock.constraint_mhz - target_mhz) <= 0.01 * target_mhz for clock in clocks):
        asked = ", ".join(f"{clock.name} {clock.constraint_mhz:g} MHz" for clock in clocks) or "no clock at all"
        raise UserError(f"no clock was constrained to {target_mhz:g} MHz, but {asked}; this is a fault of the build")
    return clocks


def critical_path(report: dict[str, Any], clock: str) -> list[str]:
    """The slowest register-to-register path of ``clock``, one line per step, times in ns."""
    edge = f"posedge {clock}"
    for path in report.get("critical_paths", []):
        if path.get("from") == edge and path.get("to") == edge:
            lines, total = [], 0.0
            for step in path["path"]:
                total += step["delay"]
                name = step.get("net") or step["to"]["cell"]
                lines.append(f"{total:7.2f} ns  +{step['delay']:5.2f}  {step['type']:8s}  {name}")
            return lines
    return []


def judge(clocks: list[ClockTiming], report: dict[str, Any]) -> tuple[str, list[str]] | None:
    """None when every clock is met; otherwise the line that says by how much not, and the critical path."""
    missed = [clock for clock in clocks if not clock.met]
    if not missed:
        return None
    worst = min(missed, key=lambda clock: clock.reached_mhz / clock.constraint_mhz)
    short = worst.constraint_mhz - worst.reached_mhz
    line = (
        f"clock {worst.name} reaches {worst.reached_mhz:.2f} MHz, {short:.2f} MHz ({short / worst.constraint_mhz:.1%}) "
        f"short of its target {worst.constraint_mhz:g} MHz; try another --seed or a lower --freq"
    )
    return line, critical_path(report, worst.name)


def read_report(path: Path) -> dict[str, Any]:
    """A report written by a build. UserError when there is none, or it is no report of this program."""
    if not path.is_file():
        raise UserError(
            f"{path} does not exist; build it with: python -m boards.ulx3s build --preset {path.parent.name}"
        )
    try:
        report = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); build again") from error
    if not isinstance(report, dict) or report.get("schema_version") != SCHEMA_VERSION:
        raise UserError(f"{path} is no build report of schema version {SCHEMA_VERSION}; build again")
    return report


def render(report: dict[str, Any]) -> str:
    """The report as lines for a person."""
    lines = [
        f"preset {report['preset']}: {report['geometry']['rows']} x {report['geometry']['columns']} array, "
        f"{report['macs_per_cycle']} MAC per cycle, {report['device']}, seed {report['seed']}"
    ]
    for name, counts in ((name, report[name]) for name in RESOURCES):
        share = counts["used"] / counts["available"]
        lines.append(f"  {name:12s}{counts['used']:8d} of {counts['available']:6d}  {share:6.1%}")
    if report["reached_mhz"] is None:
        lines.append(f"  packed only: no placement, no timing (target {report['target_mhz']:g} MHz)")
    for clock in report["clocks"]:
        timing = ClockTiming(**clock)
        verdict = "met" if timing.met else "MISSED"
        lines.append(
            f"  clock {timing.name}: {timing.reached_mhz:.2f} MHz, target {timing.constraint_mhz:g} MHz, {verdict}"
        )
    seconds = ", ".join(f"{step} {value:.0f} s" for step, value in report["seconds"].items())
    lines.append(f"  {seconds}")
    return "\n".join(lines)


def clocks_as_json(clocks: list[ClockTiming]) -> list[dict[str, Any]]:
    """Clocks as plain values."""
    return [asdict(clock) for clock in clocks]
