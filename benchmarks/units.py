"""Size and clock of every unit, and the page docs/units.md that shows them.

Each configuration is synthesized once and placed and routed with several seeds; the page shows cells and the median and
worst clock. Figures are kept in a JSON file with a fingerprint of the RTL they belong to, so that a second run makes
only what changed, and an interrupted one goes on where it stopped.
"""

import argparse
import hashlib
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from hdl.array.geometry import ArrayGeometry
from hdl.matmul import load_cycles, run_cycles
from hdl.synth import PLACERS, elaborated, map_to_cells, place
from sim.contract.codebook import affine_codebook
from sim.contract.errors import UserError
from sim.progress import progress_bar
from sim.record import write_json, write_whole

RECORD: Final = Path(__file__).with_name("units.json")
PAGE: Final = Path(__file__).resolve().parent.parent / "docs" / "units.md"
DEVICE: Final = "85F"
SEEDS: Final = (1, 2, 3)


@dataclass(frozen=True)
class Configuration:
    """A unit with parameters, and the clock that placement aims at.

    slow: takes hours, made only when asked for. pack_only: neither placed nor routed, its cells alone are of interest.
    placer: of hdl.synth.PLACERS.
    """

    unit: str
    parameters: tuple[tuple[str, str], ...] = ()
    target_mhz: float = 150.0
    slow: bool = False
    pack_only: bool = False
    placer: str = PLACERS[0]

    @property
    def name(self) -> str:
        """As in `python -m hdl synth`: the unit, then key=value."""
        return " ".join([self.unit, *(f"{key}={value}" for key, value in self.parameters)])


def _of(unit: str, target_mhz: float = 150.0, **parameters: int | str) -> Configuration:
    return Configuration(unit, tuple((key, str(value)) for key, value in parameters.items()), target_mhz)


def _large(unit: str, target_mhz: float, **parameters: int | str) -> Configuration:
    return replace(_of(unit, target_mhz, **parameters), slow=True, placer="static")


CONFIGURATIONS: Final = (
    _of("array", rows=32, columns=8),
    _of("array", rows=32, columns=16),
    _large("array", 120.0, preset="full"),
    _of("matmul", rows=32, columns=8),
    _of("loader", rows=32, columns=8),
    _of("rescale", rows=32, columns=8),
    _of("product_table"),
    _of("adder_tree"),
    _of("softmax", lanes=4, code_bits=4),
    _of("softmax", lanes=8, code_bits=8),
    _of("reorder_buffer", preset="full", lanes=8, logit_words=1372),
    _of("code_gather", preset="full", lanes=8, code_words=784),
    _of("code_buffer"),
    _of("position"),
    _of("token_order"),
    _of("code_packer"),
    _large("attention", 120.0),
    _large("machine", 80.0, preset="fit85"),
    _of("layer_norm"),
    _of("encoder", channels=2048),
    _of("residual"),
    _of("activation"),
    _of("depthwise"),
    _of("frame_receiver"),
    _of("frame_transmitter"),
    _of("sdram_controller", target_mhz=133.0),
    _of("image_source"),
)
"""What the first table shows, in its order; every unit of `python -m hdl units` is there."""

LOADER_ROWS: Final = (1, 8, 16, 32, 64)
LOADERS: Final = tuple(
    Configuration(
        "array", (("rows", "64"), ("columns", "8"), ("loader_rows", str(rows))), target_mhz=120.0, pack_only=True
    )
    for rows in LOADER_ROWS
)
"""The second table: one array, and loaders that fill more and more rows at once."""

WINDOW_TOKENS: Final = 196
TILE_TOKENS: Final = 512


def fingerprint(configuration: Configuration) -> str:
    """Hash of the RTL that is synthesized, of the clock aimed at and of the placer."""
    harness, _ = elaborated(configuration.unit, dict(configuration.parameters))
    text = f"{harness.rtlil()}\n{configuration.target_mhz}"
    if configuration.placer != PLACERS[0]:
        text += f"\n{configuration.placer}"
    # The source positions of statements are no property of the circuit.
    kept = "\n".join(line for line in text.splitlines() if "attribute \\src" not in line)
    return hashlib.sha256(kept.encode()).hexdigest()


def measure(
    record: dict[str, Any],
    configurations: Sequence[Configuration],
    seeds: Sequence[int],
    keep: Callable[[dict[str, Any]], None],
    progress: Callable[[str], None],
) -> None:
    """Fill `record` with the figures of every configuration and seed that it lacks or has of another RTL.

    record: by configuration name, "fingerprint" and "runs", figures by seed. keep: is given the record after every run.
    progress: is told each configuration and seed when it is done, found or made. Raises UserError when a tool fails.
    """
    for configuration in configurations:
        now = fingerprint(configuration)
        entry = record.get(configuration.name)
        if entry is None or entry["fingerprint"] != now:
            entry = {"fingerprint": now, "runs": {}}
        with tempfile.TemporaryDirectory(prefix="nibblesam-units-") as scratch:
            netlist = None
            for seed in seeds[:1] if configuration.pack_only else seeds:
                if str(seed) not in entry["runs"]:
                    if netlist is None:
                        netlist = map_to_cells(configuration.unit, dict(configuration.parameters), Path(scratch))
                    figures = place(
                        netlist,
                        device=DEVICE,
                        target_mhz=configuration.target_mhz,
                        seed=seed,
                        placer=configuration.placer,
                        pack_only=configuration.pack_only,
                    )
                    entry["runs"][str(seed)] = figures.as_dict()
                    record[configuration.name] = entry
                    keep(record)
                progress(f"{configuration.name}, seed {seed}")


def utilization(loader_rows: int, tokens: int) -> float:
    """Share of cycles in which 64 rows work, tables of a uniform codebook loaded anew every `tokens` tokens."""
    geometry = ArrayGeometry(rows=64, columns=8, loader_rows=loader_rows)
    return tokens / (run_cycles(tokens) + load_cycles(geometry, affine_codebook()))


def _loader_lines(record: Mapping[str, Any]) -> list[str]:
    lines = [
        "",
        "## Loaders",
        "",
        "The array of 64 x 8, packed only, with loaders of running adders that fill so many rows at once. Cycles are",
        "those of a LOAD with the uniform codebook (`load_cycles`); utilization is the share of cycles that multiply",
        f"when tables are loaded for every {WINDOW_TOKENS} tokens (a window) or {TILE_TOKENS} tokens (a linear tile).",
        "",
        "| rows at once | COMB | per MAC | load cycles | window | linear tile |",
        "|---|---|---|---|---|---|",
    ]
    for rows, configuration in zip(LOADER_ROWS, LOADERS, strict=True):
        if configuration.name in record:
            run = next(iter(record[configuration.name]["runs"].values()))
            cycles = load_cycles(ArrayGeometry(rows=64, columns=8, loader_rows=rows), affine_codebook())
            window, tile = utilization(rows, WINDOW_TOKENS), utilization(rows, TILE_TOKENS)
            lines.append(
                f"| {rows} | {run['comb']:,} | {run['comb_per_mac']:.1f} | {cycles:,} | {window:.1%} | {tile:.1%} |"
            )
    return lines


def page(record: Mapping[str, Any]) -> str:
    """docs/units.md of a record."""
    lines = [
        "# Size and clock of the units",
        "",
        "Made by `python -m benchmarks.units` (yosys, nextpnr; LFE5U-85F, speed grade 6), never by hand. Each line is",
        "`python -m hdl synth UNIT --param KEY=VALUE ... --device 85F --freq MHZ --seed N --placer NAME`: registers",
        "stand on every port, and the FF column leaves those of this harness out. A clock is the tool's figure after",
        "routing.",
        "",
        "| unit | COMB | per MAC | FF | RAMW | DP16KD | MULT18X18D | placer | aim MHz | median MHz | worst MHz "
        "| seeds |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for configuration in (one for one in CONFIGURATIONS if one.name in record):
        name = configuration.name
        runs = list(record[name]["runs"].values())
        first = runs[0]
        clocks = [run["fmax_mhz"] for run in runs]
        per_mac = "" if first["comb_per_mac"] is None else f"{first['comb_per_mac']:.1f}"
        lines.append(
            f"| `{name}` | {first['comb']:,} | {per_mac} | {first['ff'] - first['harness_ff']:,} | {first['ramw']:,} "
            f"| {first['bram']} | {first['dsp']} | {configuration.placer} | {first['target_mhz']:g} "
            f"| {statistics.median(clocks):.0f} | {min(clocks):.0f} | {', '.join(record[name]['runs'])} |"
        )
    tools = sorted(
        {version for entry in record.values() for run in entry["runs"].values() for version in run["tools"].values()}
    )
    return "\n".join([*lines, *_loader_lines(record), "", "Tools: " + "; ".join(tools) + ".", ""])


def read_record(path: Path) -> dict[str, Any]:
    """A record, empty where there is no file. Raises UserError when the file is no record."""
    try:
        record = json.loads(path.read_text()) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}); remove it to measure anew") from error
    if not isinstance(record, dict) or not all("fingerprint" in one and "runs" in one for one in record.values()):
        raise UserError(f"{path} is no record of this bench; remove it to measure anew")
    return record


def parser() -> argparse.ArgumentParser:
    """The argument parser."""
    top = argparse.ArgumentParser(prog="python -m benchmarks.units", description=__doc__)
    top.add_argument("--only", action="append", default=[], metavar="UNIT", help="measure this unit only; repeatable")
    top.add_argument(
        "--seeds", default=",".join(map(str, SEEDS)), metavar="LIST", help="placement seeds (default: %(default)s)"
    )
    top.add_argument(
        "--slow", action="store_true", help="also what takes hours: the full array, attention, the machine"
    )
    top.add_argument("--json", type=Path, default=RECORD, metavar="FILE", help="figures so far (default: the tree's)")
    top.add_argument("--page", type=Path, default=PAGE, metavar="FILE", help="page to write (default: docs/units.md)")
    return top


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = parser().parse_args(argv)
    try:
        chosen = [
            one
            for one in (*CONFIGURATIONS, *LOADERS)
            if (arguments.slow or not one.slow) and (not arguments.only or one.unit in arguments.only)
        ]
        missing = [name for name in arguments.only if name not in {one.unit for one in CONFIGURATIONS}]
        if missing:
            raise UserError(f"--only {missing[0]}: no such unit; `python -m hdl units` lists them")
        try:
            seeds = [int(one) for one in arguments.seeds.split(",")]
        except ValueError as error:
            raise UserError(f"--seeds {arguments.seeds} is not a list of integers; give for example 1,2,3") from error
        record = read_record(arguments.json)

        def keep(found: dict[str, Any]) -> None:
            write_json(arguments.json, found)
            write_whole(arguments.page, page(found).encode())

        with progress_bar(sum(1 if one.pack_only else len(seeds) for one in chosen), "run") as progress:
            measure(record, chosen, seeds, keep, progress)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted; the same command goes on behind the last finished run", file=sys.stderr)
        return 1
    print(f"{arguments.page}: {len(record)} configurations")
    return 0


if __name__ == "__main__":
    sys.exit(main())
