"""Command line of the golden model and the simulated hardware: `python -m sim COMMAND ...`."""

import argparse
import importlib
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sim.contract.errors import UserError


@dataclass(frozen=True)
class Command:
    """A subcommand. Its module has `add_parser(subparsers)` and `run(arguments) -> int`; nothing else imports it."""

    module: str
    summary: str


COMMANDS: Final = {
    "segment": Command("sim.segment", "segment what a box encloses on a picture, with the integer model or a program"),
    "compile": Command("sim.compiler.command", "compile the image encoder of a model to a program of the machine"),
    "disasm": Command("sim.compiler.disassemble", "print a program of the machine, command by command"),
    "cycles": Command("sim.cycles.command", "cycles of a model on the machine, layer by layer, by the cycle model"),
    "layers": Command("sim.bench.layers", "run a program on the simulated hardware, every layer compared bit for bit"),
    "check": Command("sim.bench.check", "compare the simulated hardware with the golden model, bit for bit"),
}


def join_negative_values(arguments: Sequence[str]) -> list[str]:
    """`--box -5,0,9,9` as `--box=-5,0,9,9`: argparse would take the value for an option."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1].startswith("--") and "=" not in joined[-1] and re.match(r"-[\d.]", argument):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def main(arguments: Sequence[str]) -> int:
    """Run one command; returns the exit status. argparse itself exits with 2 for bad use."""
    parser = argparse.ArgumentParser(
        prog="python -m sim",
        description="The golden model of nibblesam and its simulated hardware.",
        epilog="example: python -m sim segment --help",
    )
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    chosen = arguments[0] if arguments else None
    for name, command in COMMANDS.items():
        if name == chosen:
            importlib.import_module(command.module).add_parser(subparsers)
        else:
            subparsers.add_parser(name, help=command.summary)
    parsed = parser.parse_args(join_negative_values(arguments))
    try:
        status: int = importlib.import_module(COMMANDS[parsed.command].module).run(parsed)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
