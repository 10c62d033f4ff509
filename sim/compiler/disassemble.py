"""`python -m sim disasm`: a program as text, one command a line."""

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sim.compiler.compile import Program
from sim.compiler.folder import read_program
from sim.machine.commands import COMMAND_BYTES, Command, Opcode
from sim.machine.ports import RECORDS, record_bytes
from sim.machine.records import sent_fields

EXAMPLE = """\
example:
  python -m sim disasm build/program | head

Loops are COUNT, then COUNT*STRIDE from the inside out; +bN is base register N.
exit status: 0 success, 1 a fault in what was given (one line on stderr), 2 bad use of the command line
"""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the command's parser to the subparsers of `python -m sim`."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "disasm",
        description="Print a program of the machine, command by command.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("program", metavar="PROGRAM_DIR", type=Path, help="folder that `python -m sim compile` wrote")
    return parser


def line_of(command: Command) -> str:
    """A command as text."""
    name = command.opcode.name
    if command.opcode == Opcode.REPEAT:
        steps = " ".join(f"b{number}+={step:#x}" for number, step in enumerate(command.steps, 1) if step)
        return f"{name} from {command.address:#x} {command.rounds} rounds {steps}".rstrip()
    if command.port is None:
        return name
    if command.opcode == Opcode.SEND:
        return f"{name} {command.port.name} {_record(command)}"
    base = f"+b{command.base}" if command.base else ""
    loops = [str(command.counts[0])]
    loops += [f"{n}*{s:#x}" for n, s in zip(command.counts[1:], command.strides, strict=True) if n > 1]
    token = f" token {command.token_dims}" if command.token_dims else ""
    payloads = f" payloads {command.payloads}" if command.payloads else ""
    return f"{name} {command.port.name} {command.address:#x}{base} [{' '.join(loops)}]{token}{payloads}"


def _record(command: Command) -> str:
    assert command.port is not None
    if command.port not in RECORDS or record_bytes(command.port) > len(command.payload):
        return command.payload.hex()
    return " ".join(f"{name}={value}" for name, value in sent_fields(command.port, command.payload).items())


def listing(program: Program) -> Iterator[str]:
    """Lines: the name of every step, then its commands with their addresses."""
    heads = {layer.commands[0]: layer for layer in program.layers}
    for number, command in enumerate(program.commands):
        address = number * COMMAND_BYTES
        if address in heads:
            yield f"; {', '.join(heads[address].names)}"
        yield f"{address:#09x}  {line_of(command)}"


def run(arguments: argparse.Namespace) -> int:
    """Run the command. Returns the exit status; raises UserError for what the user can mend."""
    program, _ = read_program(arguments.program)
    try:
        for line in listing(program):
            print(line)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has seen enough; nothing may be flushed to it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
