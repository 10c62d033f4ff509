"""Bandwidth of the SDRAM controller in simulated RTL: streams and runs, on the model that checks every rule.

Cycles are counted from the first burst's command to the end of the last burst, refreshes included. Every word read is
compared, and a rule broken is a failure.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.sdram_run import Request, run_requests
from hdl.memory.sdram.address import BEAT_BITS, AddressMap
from hdl.memory.sdram.pins import Command
from hdl.memory.sdram.timing import PARTS, SdramPart, part_of
from sim.contract.errors import UserError
from sim.progress import progress_bar
from sim.record import write_json

ROWS: Final = 64
"""Rows of a bank that are simulated: 256 KB in all."""

EXAMPLE: Final = """\
example:
  python -m benchmarks.sdram --mhz 133 --json out/sdram.json

exit status: 0 every word is right and no rule broken, 1 otherwise
"""


@dataclass(frozen=True)
class Figures:
    """One case: bytes moved in cycles, as bytes per microsecond (MB/s) and as a share of 2 bytes per cycle."""

    case: str
    bytes: int
    cycles: int
    megabytes_per_second: float
    busy: float
    refreshes: int
    faults: list[str]


def in_turns(one: list[Request], other: list[Request], run: int) -> list[Request]:
    """`run` requests of one, `run` of the other, and so on."""
    return [
        request
        for first in range(0, len(one), run)
        for stream in (one, other)
        for request in stream[first : first + run]
    ]


def cases(address: AddressMap, count: int, seed: int) -> dict[str, list[Request]]:
    """Requests by case; `count` beats each."""
    rng = np.random.default_rng(seed)
    beat_bytes = address.beat_bits // 8
    row, half = 1 << address.place_bits, 1 << (address.bits - 1)

    def word() -> int:
        return int.from_bytes(rng.bytes(beat_bytes), "little")

    def reads(first: int, beats: int) -> list[Request]:
        return [(first + beat, None) for beat in range(beats)]

    def writes(first: int, beats: int) -> list[Request]:
        return [(first + beat, word()) for beat in range(beats)]

    found = {"read": reads(0, count), "write": writes(0, count)}
    for run_bytes in (64, 1024):
        run = max(1, run_bytes // beat_bytes)
        found[f"read and write in turns of {run_bytes} bytes"] = in_turns(
            reads(0, count // 2), writes(half + row, count // 2), run
        )
        found[f"the same, both in one bank, {run_bytes} bytes"] = in_turns(
            reads(0, count // 2), writes(half, count // 2), run
        )
    found["two reads in turns of 64 bytes"] = in_turns(
        reads(0, count // 2), reads(half + row, count // 2), max(1, 64 // beat_bytes)
    )
    found["read of single beats anywhere"] = [(int(place), None) for place in rng.integers(2 * half, size=count // 4)]
    return found


def simulate(case: str, requests: list[Request], *, part: SdramPart, mhz: float, beat_bits: int) -> Figures:
    """Figures of one case."""
    found, controller = run_requests(requests, part=part, cycles=part.at(mhz), beat_bits=beat_bits)
    bursts = [cycle for cycle, command in found.commands if command in (Command.READ, Command.WRITE)]
    inside = [cycle for cycle, command in found.commands if command == Command.REFRESH and cycle > bursts[0]]
    faults = [f"rule {rule.name} broken" for rule in sorted(found.violations)]
    if found.responses != controller.model({}, requests) or found.error:
        faults.append("words differ")
    cycles = bursts[-1] - bursts[0] + controller.address.burst
    moved = len(requests) * beat_bits // 8
    return Figures(
        case=case,
        bytes=moved,
        cycles=cycles,
        megabytes_per_second=round(moved / cycles * mhz, 1),
        busy=round(moved / cycles / 2, 4),
        refreshes=sum(cycle < bursts[-1] for cycle in inside),
        faults=faults,
    )


def measure(arguments: argparse.Namespace, announce: Callable[[str], None]) -> list[Figures]:
    """Figures of all cases. Raises UserError for what the user can mend."""
    part = replace(part_of(arguments.part), rows=ROWS, power_up_ns=1000)
    limit = part.bytes // 2048
    if not 1 <= arguments.kilobytes <= limit:
        raise UserError(f"--kilobytes {arguments.kilobytes} must be in 1..{limit}")
    address = AddressMap(part, arguments.beat_bits)
    found = []
    for case, requests in cases(address, arguments.kilobytes * 8192 // address.beat_bits, arguments.seed).items():
        try:
            found.append(simulate(case, requests, part=part, mhz=arguments.mhz, beat_bits=arguments.beat_bits))
        except ValueError as error:
            raise UserError(f"--part {arguments.part} --mhz {arguments.mhz:g}: {error}") from error
        announce(case)
    return found


def parser() -> argparse.ArgumentParser:
    """The argument parser."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.sdram",
        description="Bandwidth of the SDRAM controller in simulated RTL.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--part", default="AS4C16M16SA-6", help=f"{', '.join(PARTS)} (%(default)s)")
    made.add_argument("--mhz", type=float, default=133.0, help="clock (%(default)s)")
    made.add_argument("--beat-bits", type=int, choices=BEAT_BITS, default=128, help="of the port (%(default)s)")
    made.add_argument("--kilobytes", type=int, default=32, help="moved by a case (%(default)s)")
    made.add_argument("--seed", type=int, default=0, help="of words and places (%(default)s)")
    made.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    return made


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = parser().parse_args(argv)
    try:
        with progress_bar(None, "case") as announce:
            found = measure(arguments, announce)
        if arguments.json:
            settings: dict[str, Any] = {name: getattr(arguments, name) for name in ("part", "mhz", "beat_bits", "seed")}
            write_json(arguments.json, {**settings, "cases": [asdict(one) for one in found]})
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for one in found:
        print(f"{one.case:<50}{one.megabytes_per_second:>7} MB/s {one.busy:>7.1%}  {' '.join(one.faults)}".rstrip())
    return int(any(one.faults for one in found))


if __name__ == "__main__":
    sys.exit(main())
