"""Injects faults into runs of the verilated machine: bit flips, a program cut off, memory that fails or stalls.

Every run must finish or stop with an error, whatever the fault: never hang, never change memory below the first
writable address, never ask for a write after the error. Other data may go unnoticed by the machine only where the
program is as it was compiled; a flip in commands or constants, and a program cut off, the host's check must refuse.
"""

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.faults.injection import KINDS, Injection, Start, injections, starts
from benchmarks.faults.network import Target, target
from benchmarks.faults.outcome import Outcome, classify
from hdl.machine.mover import PATIENCE
from sim.bench.machine_bench import run_program
from sim.bench.verilator import BenchError
from sim.compiler.folder import IMAGE_FILE, ModelIdentity, read_program, write_program
from sim.contract.errors import UserError
from sim.machine.faults import Fault
from sim.machine.presets import preset_of
from sim.progress import progress_bar
from sim.record import write_json

CYCLES: Final = 1000
"""Most cycles, in those of the run without a fault: a flipped count makes a READ long, never endless."""


def host_refuses(folder: Path, image: bytes) -> bool:
    """Whether the check of the program folder refuses this image in place of its own."""
    (folder / IMAGE_FILE).write_bytes(image)
    try:
        read_program(folder)
    except UserError:
        return True
    return False


def inject(aim: Target, start: Start, fault: Injection, folder: Path, max_cycles: int) -> dict[str, Any]:
    """One run, as an entry of the record. Raises BenchError when the simulation itself fails."""
    program = aim.program
    spoiled = fault.applied(start.before, len(program.image))
    in_image = fault.cut is not None or (fault.flip is not None and fault.flip[0] < program.writable)
    image = spoiled[: program.writable].tobytes()[: fault.cut]
    refused = host_refuses(folder, image) if in_image else None
    run = run_program(program.preset, spoiled.tobytes(), program.writable, max_cycles, memory=fault.memory)
    may_differ = refused if refused is not None else fault.kind == "tensor"
    verdict = classify(run, spoiled, start.after, program.writable, may_differ=may_differ)
    return {
        "kind": fault.kind,
        "detail": fault.detail,
        "start": fault.start,
        "outcome": str(verdict.outcome),
        "fault": verdict.fault.name,
        "where": verdict.where,
        "cycles": run.cycles,
        "refused_by_host": refused,
        "violations": list(verdict.violations),
    }


def table(found: Sequence[dict[str, Any]]) -> str:
    """Counts by kind, then every violation."""
    lines = [f"{'fault':10}" + "".join(f"{outcome:>10}" for outcome in Outcome) + f"{'host':>10}"]
    for kind in KINDS:
        ours = [one for one in found if one["kind"] == kind]
        counts = Counter(one["outcome"] for one in ours)
        asked = [one["refused_by_host"] for one in ours if one["refused_by_host"] is not None]
        host = f"{sum(asked)}/{len(asked)}" if asked else "-"
        lines.append(f"{kind:10}" + "".join(f"{counts[outcome]:10}" for outcome in Outcome) + f"{host:>10}")
    violating = [one for one in found if one["violations"] or one["refused_by_host"] is False]
    lines += [f"{one['kind']}, {one['detail']}: {', '.join(one['violations']) or 'not refused'}" for one in violating]
    return "\n".join([*lines, f"{len(found)} faults, {len(violating)} break a rule"])


def main(argv: list[str] | None = None) -> int:
    """Run the command line; 0 when no run breaks a rule."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__)
    parser.add_argument("--count", type=int, default=240, metavar="N", help="faults (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="of network and faults (%(default)s)")
    parser.add_argument("--preset", default="small", metavar="NAME", help="of the machine (%(default)s)")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="every fault and its outcome")
    arguments = parser.parse_args(argv)
    try:
        if arguments.count < 1 or arguments.seed < 0:
            raise UserError("--count must be at least 1 and --seed at least 0")
        aim = target(preset_of(arguments.preset), arguments.seed)
        begun = starts(aim)
        allowed = 1 << 32
        clean = run_program(aim.program.preset, aim.memory.tobytes(), aim.program.writable, allowed)
        well = classify(clean, aim.memory, begun[0].after, aim.program.writable, may_differ=False)
        if (well.outcome, well.fault, well.violations) != (Outcome.SAME, Fault.NONE, ()):
            raise UserError(f"without a fault the run ends as {well.outcome}; mend that first")
        max_cycles = CYCLES * clean.cycles + 2 * PATIENCE
        found: list[dict[str, Any]] = []
        faults = injections(aim, arguments.count, arguments.seed, clean.cycles)
        with tempfile.TemporaryDirectory() as scratch, progress_bar(len(faults), "fault") as progress:
            folder = Path(scratch)
            write_program(folder, aim.program, ModelIdentity("invented", 4, ""))
            if host_refuses(folder, aim.program.image):
                raise UserError("the host's check refuses the program as it is; mend that first")
            for fault in faults:
                found.append(inject(aim, begun[fault.start], fault, folder, max_cycles))
                write_json(arguments.json, {"cycles": clean.cycles, "max_cycles": max_cycles, "faults": found})
                progress(fault.kind)
    except (UserError, BenchError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(table(found))
    return 0 if all(not one["violations"] and one["refused_by_host"] is not False for one in found) else 1


if __name__ == "__main__":
    sys.exit(main())
