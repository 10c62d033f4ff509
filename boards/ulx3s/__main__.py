"""Command line of the ULX3S: build, presets, report."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sim.contract.errors import UserError
from sim.record import write_json

from .build import REPORT, build
from .presets import DEFAULT_DEVICE, DEFAULT_PRESET, DEVICES, PRESETS, preset_of
from .report import read_report, render

OUT = Path("build/ulx3s")

EPILOG = """\
examples:
  python -m boards.ulx3s presets                       what can be built
  python -m boards.ulx3s build                         the default preset, in minutes
  python -m boards.ulx3s build --preset full --pack-only   does the largest array fit? (no placement)
  python -m boards.ulx3s report --preset tiny          figures of the last build

A build writes build/ulx3s/PRESET/top.bit and report.json, and fails when a clock misses its target.
Load the bitstream with openFPGALoader -b ulx3s build/ulx3s/tiny/top.bit (not needed for a build).
"""


def parser() -> argparse.ArgumentParser:
    """The command line, described."""
    top = argparse.ArgumentParser(
        prog="python -m boards.ulx3s",
        description="Bitstreams for the ULX3S (Lattice ECP5), with their figures.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    located = argparse.ArgumentParser(add_help=False)
    located.add_argument("--preset", default=DEFAULT_PRESET, help=f"which build (default: {DEFAULT_PRESET})")
    located.add_argument("--out", type=Path, default=OUT, metavar="DIR", help=f"where builds are kept (default: {OUT})")

    making = commands.add_parser(
        "build",
        parents=[located, shared],
        help="make a bitstream",
        description="Elaborate, synthesize, place, route and pack one preset. Takes minutes; says how far it is.",
        epilog="example: python -m boards.ulx3s build --preset tiny --seed 3 --json figures.json",
    )
    making.add_argument("--device", default=DEFAULT_DEVICE, help=f"{', '.join(DEVICES)} (default: {DEFAULT_DEVICE})")
    making.add_argument("--freq", type=float, metavar="MHZ", help="target clock (default: the preset's)")
    making.add_argument("--seed", type=int, default=1, help="of the placement (default: 1)")
    making.add_argument("--pack-only", action="store_true", help="stop after packing: counts resources, no timing")

    commands.add_parser(
        "presets",
        parents=[shared],
        help="list what can be built",
        description="List the presets with array, target clock and purpose.",
        epilog="example: python -m boards.ulx3s presets",
    )
    commands.add_parser(
        "report",
        parents=[located, shared],
        help="print the last build's figures",
        description="Print resources, clocks and times of the last build of a preset.",
        epilog="example: python -m boards.ulx3s report --preset tiny",
    )
    return top


def describe_presets() -> str:
    """One line per preset."""
    lines = [f"{'preset':8s}{'array':>9s}{'MAC/cycle':>11s}{'target':>10s}{'baud':>10s}  purpose"]
    for preset in PRESETS.values():
        array = f"{preset.geometry.rows}x{preset.geometry.columns}"
        default = " (default)" if preset.name == DEFAULT_PRESET else ""
        lines.append(
            f"{preset.name:8s}{array:>9s}{preset.macs_per_cycle:11d}{preset.target_mhz:6g} MHz{preset.baud:10d}"
            f"  {preset.purpose}{default}"
        )
    return "\n".join(lines)


def execute(arguments: argparse.Namespace) -> tuple[str, Any]:
    """Carry out one command: what to print, and its figures."""
    if arguments.command == "presets":
        return describe_presets(), {name: asdict(preset) for name, preset in PRESETS.items()}
    preset = preset_of(arguments.preset)
    folder = arguments.out / preset.name
    if arguments.command == "report":
        report = read_report(folder / REPORT)
        return render(report), report
    report = build(
        preset,
        device=arguments.device,
        target_mhz=preset.target_mhz if arguments.freq is None else arguments.freq,
        seed=arguments.seed,
        pack_only=arguments.pack_only,
        folder=folder,
    )
    written = folder / (REPORT if arguments.pack_only else "top.bit")
    return f"{render(report)}\nwrote {written}", report


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 failed with one line on stderr, 2 wrong usage (argparse)."""
    arguments = parser().parse_args(argv)
    try:
        text, figures = execute(arguments)
        print(text)
        if arguments.json:
            write_json(arguments.json, figures)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted; nothing was written", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
