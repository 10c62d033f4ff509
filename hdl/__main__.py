"""Command line of the hardware: synthesize a unit on its own, or list the units."""

import argparse
import sys
import tempfile
from pathlib import Path

from hdl.parts import cells_by_part, describe_parts
from hdl.synth import DEVICES, NETLIST, PLACERS, Figures, synthesize
from hdl.units import UNITS
from sim.contract.errors import UserError
from sim.record import write_json

EPILOG = """examples:
  python -m hdl units
  python -m hdl synth adder_tree --param inputs=16 --freq 200
  python -m hdl synth array --param rows=32 --param columns=8 --device 85F --freq 150 --json out/array.json
  python -m hdl synth matmul --param preset=full --pack-only
  python -m hdl synth array --param preset=full --placer static --freq 120
  python -m hdl synth machine --param preset=fit85 --pack-only --parts 1
"""


def _positive(text: str) -> float:
    value = float(text)
    if not 1 <= value <= 1000:
        raise argparse.ArgumentTypeError(f"{text} MHz is outside 1..1000")
    return value


def parser() -> argparse.ArgumentParser:
    """The argument parser."""
    top = argparse.ArgumentParser(
        prog="python -m hdl", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = top.add_subparsers(dest="command", required=True)
    units = commands.add_parser("units", help="list the units and their parameters")
    units.add_argument("--json", type=Path, metavar="FILE", help="also write the list to FILE")
    synth = commands.add_parser(
        "synth",
        help="area and clock rate of one unit",
        description="Synthesize one unit between port registers (yosys, nextpnr) and report cells and MHz. The port "
        "registers are flip-flops only, counted separately; every look-up table reported is the unit's.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    synth.add_argument("unit", metavar="UNIT", help="a name from `python -m hdl units`")
    synth.add_argument("--param", action="append", default=[], metavar="KEY=VALUE", help="a parameter of the unit")
    synth.add_argument("--device", default="85F", metavar="DEVICE", help=f"{', '.join(DEVICES)} (default: 85F)")
    synth.add_argument("--freq", type=_positive, default=150.0, metavar="MHZ", help="clock to reach (default: 150)")
    synth.add_argument("--seed", type=int, default=1, help="placement seed (default: 1)")
    synth.add_argument(
        "--placer", choices=PLACERS, default=PLACERS[0], help="of nextpnr (default: heap); static for large arrays"
    )
    synth.add_argument("--pack-only", action="store_true", help="stop after packing: cells, but no clock rate")
    synth.add_argument(
        "--observed", action="store_true", help="with activity counters and events around the unit (hdl.activity)"
    )
    synth.add_argument(
        "--parts", type=int, default=0, metavar="DEPTH", help="also cells of submodules, so many levels below the unit"
    )
    synth.add_argument("--folder", type=Path, help="keep netlists and logs here (default: a temporary folder)")
    synth.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    return top


def _parameters(pairs: list[str]) -> dict[str, str]:
    parameters = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (key and equals and value):
            raise UserError(f"--param {pair} must have the form key=value")
        parameters[key] = value
    return parameters


def describe(figures: Figures) -> str:
    """Figures for people."""
    lines = [f"{figures.unit} on LFE5U-{figures.device}, speed grade 6, seed {figures.seed}"]
    for name, total in figures.available.items():
        used = getattr(figures, name)
        lines.append(f"  {name:<5}{used:>7} of {total:>6} ({100 * used / total:.1f} %)")
    lines.append(f"  of the ff, {figures.harness_ff} are the harness's; it has no comb")
    if figures.comb_per_mac is not None:
        lines.append(f"  {figures.comb_per_mac} comb per multiply-accumulate, {figures.macs} per cycle")
    if figures.fmax_mhz is not None:
        lines.append(f"  {figures.fmax_mhz} MHz, target {figures.target_mhz:g} MHz")
    return "\n".join(lines)


def _units(json_file: Path | None) -> None:
    for name, unit in UNITS.items():
        print(f"{name}: {unit.about}")
        print("    " + " ".join(f"{key}={default}" for key, default in unit.parameters.items()))
    if json_file:
        write_json(
            json_file, {name: {"about": unit.about, "parameters": unit.parameters} for name, unit in UNITS.items()}
        )


def _synth(arguments: argparse.Namespace) -> None:
    if arguments.parts < 0:
        raise UserError(f"--parts {arguments.parts}: give the levels of submodules to tell apart, 1 for the unit's own")
    with tempfile.TemporaryDirectory(prefix="nibblesam-synth-") as scratch:
        folder = arguments.folder or Path(scratch)
        figures = synthesize(
            arguments.unit,
            _parameters(arguments.param),
            device=arguments.device,
            target_mhz=arguments.freq,
            seed=arguments.seed,
            folder=folder,
            placer=arguments.placer,
            pack_only=arguments.pack_only,
            observed=arguments.observed,
        )
        parts = cells_by_part(folder / NETLIST, arguments.parts) if arguments.parts else {}
    if arguments.json:
        write_json(arguments.json, {**figures.as_dict(), **({"parts": parts} if parts else {})})
    print(describe(figures))
    if parts:
        print(describe_parts(parts))
    if figures.fmax_mhz is not None and figures.fmax_mhz < figures.target_mhz:
        print("slowest path (ns, from -> to):", *figures.critical_path, sep="\n  ")
        missed = figures.target_mhz - figures.fmax_mhz
        raise UserError(
            f"{arguments.unit} reaches {figures.fmax_mhz} MHz, {missed:.2f} MHz below --freq {arguments.freq:g}; "
            "lower --freq, or try another --seed or --placer"
        )


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = parser().parse_args(argv)
    try:
        if arguments.command == "units":
            _units(arguments.json)
        else:
            _synth(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
