"""Options of the commands that simulate the machine: a timeline of its units, and a waveform."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sim.contract.errors import UserError


@dataclass(frozen=True)
class Probes:
    """trace: file of the timeline, or None. trace_cycles: cycles of a slice of it, 0: as few as leave 2,048 slices or
    less. wave: file of the waveform, or None. wave_cycles: its first cycle, and the one behind its last or None."""

    trace: Path | None = None
    trace_cycles: int = 0
    wave: Path | None = None
    wave_cycles: tuple[int, int | None] = (0, None)


def add_probes(parser: Any, prefix: str = "") -> None:
    """Add the options to a parser or a group of one; `prefix` stands in front of their help."""
    parser.add_argument(
        "--trace",
        metavar="FILE",
        type=Path,
        help=f"{prefix}where to write what the units did, for ui.perfetto.dev; compiles a machine of its own",
    )
    parser.add_argument(
        "--trace-cycles",
        metavar="N",
        type=int,
        help=f"{prefix}cycles of a slice of --trace (default: 1, doubled until there are no more than 2,048 slices)",
    )
    parser.add_argument(
        "--wave",
        metavar="FST",
        type=Path,
        help=f"{prefix}where to write the waveform of every signal (GTKWave, Surfer); compiles a machine of its own",
    )
    parser.add_argument(
        "--wave-cycles", metavar="A:B", help=f"{prefix}cycles A to B - 1 for --wave (default: all; some KB each)"
    )


def given_probes(arguments: argparse.Namespace) -> list[str]:
    """Names of the options that were given."""
    names = ("trace", "trace_cycles", "wave", "wave_cycles")
    return [f"--{name.replace('_', '-')}" for name in names if getattr(arguments, name) is not None]


def probes_of(arguments: argparse.Namespace) -> Probes:
    """The options. Raises UserError for what is no number of cycles, lacks its file, or cannot be written."""
    for name, limit in (("trace", "trace_cycles"), ("wave", "wave_cycles")):
        if getattr(arguments, name) is None and getattr(arguments, limit) is not None:
            raise UserError(f"--{limit.replace('_', '-')} needs --{name} FILE; add it, or leave the option out")
    window = arguments.trace_cycles
    if window is not None and not 1 <= window <= 1 << 31:
        raise UserError(f"--trace-cycles {window}: give 1 to {1 << 31} cycles")
    if arguments.trace is not None and arguments.trace == arguments.wave:
        raise UserError(f"--trace and --wave both write {arguments.trace}; name two files")
    cycles = (0, None) if arguments.wave_cycles is None else _cycles(arguments.wave_cycles)
    for path in (arguments.trace, arguments.wave):
        if path is not None:
            check_writable(path)
    return Probes(arguments.trace, window or 0, arguments.wave, cycles)


def _cycles(text: str) -> tuple[int, int | None]:
    first, colon, last = text.partition(":")
    try:
        found = int(first or 0), int(last) if last else None
    except ValueError:
        colon, found = "", (0, None)
    if not colon or found[0] < 0 or (found[1] is not None and found[1] <= found[0]):
        raise UserError(f"--wave-cycles {text}: give A:B with 0 <= A < B; either may be left out")
    return found


def check_writable(path: Path) -> None:
    """Raise UserError when a file cannot be written: better before the run than behind it. Leaves none behind."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        existed = path.exists()
        with path.open("ab"):
            pass
        if not existed:
            path.unlink()
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; choose a writable place") from None
