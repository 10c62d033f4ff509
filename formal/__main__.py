"""Command line of the proofs: list them, run them."""

import argparse
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

from formal.catalogue import all_proofs, chosen_proofs
from formal.faults import FAULTS, planted
from formal.sby import Outcome, prove
from sim.contract.errors import UserError
from sim.record import write_json

EPILOG = """examples:
  python -m formal list                          every proof: mode, depth, what it says and assumes
  python -m formal run                           all of them, in a few minutes
  python -m formal run sequencer output_fifo_5   these two
  python -m formal run --json out/formal.json    figures for machines too
  python -m formal faults                        show that proofs can fail, a fault at a time

A proof is done twice over: its assertions are proved (k-induction: for runs of any length; bounded: for as many cycles
as the depth says), then each situation that it names is reached, so that no assumption rules out what matters.
When one fails, the last line names it, the line of the assertion, and the waveform (VCD) of the shortest run that
breaks it; of a failed induction the waveform may start in a state that cannot be reached: then the statement must say
more about the inner registers. docs/formal.md says what each proof is worth.
"""

DEFAULT_FOLDER = Path("build/formal")


def parser() -> argparse.ArgumentParser:
    """The argument parser."""
    top = argparse.ArgumentParser(
        prog="python -m formal",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("list", help="name every proof, with what it says and assumes")
    listing.add_argument("--markdown", action="store_true", help="as the table of docs/formal.md")
    faults = commands.add_parser(
        "faults",
        help="show that proofs can fail: put a fault into a unit, see its proof find it",
        description="For each fault of formal/faults.py, or those of the proofs named: change the unit's RTL in one "
        "place, search for a run from the initial state that breaks the proof's statement, and demand one.",
    )
    faults.add_argument("names", nargs="*", metavar="NAME", help="a proof that has a fault (default: all of them)")
    run = commands.add_parser(
        "run",
        help="prove all, or those named",
        description="Prove all statements, or those named, one after another: a line each, a table at the end.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run.add_argument("names", nargs="*", metavar="NAME", help="a name from `python -m formal list` (default: all)")
    run.add_argument("--json", type=Path, metavar="FILE", help="also write the results to FILE")
    for command in (run, faults):
        command.add_argument(
            "--folder",
            type=Path,
            default=DEFAULT_FOLDER,
            metavar="DIR",
            help=f"circuits, logs and waveforms (default: {DEFAULT_FOLDER})",
        )
    return top


def table(outcomes: list[Outcome]) -> str:
    """Results for people."""
    width = max(len(outcome.name) for outcome in outcomes)
    lines = [f"{'proof':<{width}}  {'mode':<11}  depth  assertions  reached  seconds  result"]
    for outcome in outcomes:
        reached = outcome.covers if outcome.passed else "-"
        lines.append(
            f"{outcome.name:<{width}}  {outcome.mode:<11}  {outcome.depth:>5}  {outcome.assertions:>10}  {reached:>7}  "
            f"{outcome.seconds:>7.1f}  {'proved' if outcome.passed else 'FAILED'}"
        )
    return "\n".join(lines)


def markdown() -> list[str]:
    """Lines of the table of docs/formal.md."""
    rows = [
        f"| `{proof.name}` | {proof.mode} | {proof.depth} | {proof.says} | {proof.assumes} |".replace("**", "^")
        for proof in all_proofs().values()
    ]
    return ["| proof | mode | depth | says | assumes |", "|---|---|---|---|---|", *rows]


def _list(*, as_markdown: bool) -> None:
    if as_markdown:
        print("\n".join(markdown()))
        return
    for proof in all_proofs().values():
        print(f"{proof.name}: {proof.mode}, depth {proof.depth}\n    {proof.says}\n    Assumes: {proof.assumes}")


def _run(arguments: argparse.Namespace) -> None:
    proofs = chosen_proofs(arguments.names)
    outcomes: list[Outcome] = []
    for number, proof in enumerate(proofs, 1):
        print(f"[{number}/{len(proofs)}] {proof.name} ...", file=sys.stderr, flush=True)
        folder = arguments.folder / proof.name
        shutil.rmtree(folder, ignore_errors=True)
        outcomes.append(prove(proof, folder))
    print(table(outcomes))
    if arguments.json:
        write_json(arguments.json, {"proofs": [asdict(outcome) for outcome in outcomes]})
    failed = [outcome for outcome in outcomes if not outcome.passed]
    if failed:
        first, more = failed[0], f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        raise UserError(f"proof {first.name} failed{more}: {first.reason}; look at {first.trace}")


def _faults(arguments: argparse.Namespace) -> None:
    known = [fault.proof for fault in FAULTS]
    for name in arguments.names:
        if name not in known:
            raise UserError(f"there is no fault for proof {name!r}; there is one for each of {', '.join(known)}")
    unnoticed = []
    for fault in FAULTS:
        if arguments.names and fault.proof not in arguments.names:
            continue
        folder = arguments.folder / f"fault_{fault.proof}"
        shutil.rmtree(folder, ignore_errors=True)
        with planted(fault) as proof:
            outcome = prove(proof, folder, claim_only=True)
        print(
            f"{fault.proof}: {fault.unit}: {fault.right!r} -> {fault.wrong!r}: {outcome.reason or 'UNNOTICED'}",
            flush=True,
        )
        if "the assertion" not in outcome.reason:
            unnoticed.append(fault.proof)
    if unnoticed:
        raise UserError(f"proofs that do not find their fault: {', '.join(unnoticed)}; they state too little")


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = parser().parse_args(argv)
    try:
        if arguments.command == "list":
            _list(as_markdown=arguments.markdown)
        elif arguments.command == "faults":
            _faults(arguments)
        else:
            _run(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
