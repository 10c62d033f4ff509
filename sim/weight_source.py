"""The option of a second port that has a program's image: commands, weights, scales and tables."""

import argparse
from typing import Any

from sim.contract.errors import UserError


def add_weight_source(parser: Any, prefix: str = "") -> None:
    """Add the option to a parser or a group of one; `prefix` stands in front of its help."""
    parser.add_argument(
        "--weight-source-mb-s",
        metavar="N",
        type=float,
        help=f"{prefix}a second port, of N MB a second, has the program's image: commands, weights, scales and tables "
        "(default: external memory has it)",
    )


def weight_source_of(arguments: argparse.Namespace) -> float | None:
    """MB (10**6 bytes) a second, or None where there is no such port. Raises UserError for what is no bandwidth."""
    mb_s: float | None = arguments.weight_source_mb_s
    if mb_s is not None and not mb_s > 0:
        raise UserError(f"--weight-source-mb-s {mb_s:g} is no bandwidth; give MB a second above 0")
    return mb_s
