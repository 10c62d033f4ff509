"""What a build used and reached: read from the tools' own reports, judged, printed."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from hdl.synth import critical_path, utilization_of_log
from sim.contract.errors import UserError

__all__ = [
    "RESOURCES",
    "ClockTiming",
    "judge",
    "parse_timing",
    "parse_utilization",
    "read_report",
    "render",
]

RESOURCES: Final = {"comb": "comb", "ff": "ff", "ramw": "ramw", "dp16kd": "bram", "mult18x18d": "dsp"}
"""Resources of a report, each with the name that :mod:`hdl.synth` counts it under."""

SCHEMA_VERSION: Final = 1

SHORT_HOP_NS: Final = 0.1
"""Hops of a critical path that take less are not shown."""


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
    used, available = utilization_of_log(log)
    return {name: {"used": used[cell], "available": available[cell]} for name, cell in RESOURCES.items()}


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
    # The hops inside a carry chain take almost no time and many lines.
    return line, [hop for hop in critical_path(report) if float(hop.split()[0]) >= SHORT_HOP_NS]


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
        f"{report['macs_per_cycle']} MAC per cycle, LFE5U-{report['device']}, seed {report['seed']}"
    ]
    for name, counts in report["resources"].items():
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
