"""Which lines of the hardware's sources hold statements, and which of them a simulation reaches."""

import ast
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from amaranth.hdl import Fragment, Signal
from amaranth.hdl._ast import Assign, Switch

ROOT: Final = Path(__file__).resolve().parents[2]
HARDWARE: Final = ROOT / "hdl"

Line = tuple[str, int]
"""A file relative to the root, and a line in it."""


def statement_lines(file: Path) -> set[Line]:
    """Lines of a source file on which an assignment `target.eq(value)` begins."""
    name = str(file.relative_to(ROOT))
    calls = (node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call))
    return {
        (name, call.func.value.end_lineno or call.lineno)
        for call in calls
        if isinstance(call.func, ast.Attribute) and call.func.attr == "eq"
    }


def place_assignments() -> None:
    """Let every assignment know the line of the hardware that makes it, also through views, whose own it has else."""
    original: Any = Assign.__init__

    def build(statement: Any, *operands: Any, **places: Any) -> None:
        original(statement, *operands, **places)
        frame = sys._getframe(1)
        while frame.f_back is not None and not frame.f_code.co_filename.startswith(str(HARDWARE)):
            frame = frame.f_back
        statement.src_loc = (frame.f_code.co_filename, frame.f_lineno)

    setattr(Assign, "__init__", build)  # noqa: B010


def line_of(statement: Any) -> Line | None:
    """Where a statement of the hardware's sources was written."""
    file, line = Path(statement.src_loc[0]), statement.src_loc[1]
    return (str(file.relative_to(ROOT)), line) if file.is_relative_to(HARDWARE) else None


def _own_lines(statements: Iterable[Any]) -> frozenset[Line]:
    found = (line_of(statement) for statement in statements if isinstance(statement, Assign))
    return frozenset(line for line in found if line is not None)


@dataclass(frozen=True)
class Mark:
    """`signal` is 1 from the clock edge on that has first seen the branch with these `lines` taken."""

    signal: Signal
    lines: frozenset[Line]


class _Branches:
    """Adds to the branches of one domain of a fragment a bit each."""

    def __init__(self, domain: str, known: set[Line]) -> None:
        self._domain, self._known = domain, known
        self.bits: dict[frozenset[Line], Signal] = {}

    def rewrite(self, statements: Iterable[Any]) -> list[Any]:
        """The same statements, with marks."""
        return [self._rewrite_switch(one) if isinstance(one, Switch) else one for one in statements]

    def _rewrite_switch(self, switch: Switch) -> Switch:
        cases = []
        for patterns, body, place in switch.cases:
            lines = _own_lines(body)
            marked = self.rewrite(body)
            if lines - self._known:
                bit = self.bits.setdefault(lines, Signal(name="reached"))
                marked.append(bit.eq(1))
            cases.append((patterns, marked, place))
        return Switch(switch.test, cases, src_loc=switch.src_loc)


def mark_branches(fragment: Fragment, known: set[Line]) -> Iterator[Mark | frozenset[Line]]:
    """Make a fragment and all below it tell which branches it takes; lines outside branches are yielded as they are.

    known: lines that need no mark, as they have been reached before.
    """
    clocked = next((domain for domain in fragment.statements if domain != "comb"), "sync")
    added: list[tuple[str, Any]] = []
    for domain, statements in list(fragment.statements.items()):
        yield _own_lines(statements)
        branches = _Branches(domain, known)
        fragment.statements[domain] = type(statements)(branches.rewrite(statements))
        for lines, bit in branches.bits.items():
            seen = bit
            if domain == "comb":
                # Between two edges a condition may be true for a moment: what counts is what the edge sees.
                seen = Signal(name="seen")
                added.append((clocked, seen.eq(seen | bit)))
            yield Mark(seen, lines)
    for domain, statement in added:
        fragment.add_statements(domain, statement)
    for part, _, _ in fragment.subfragments:
        yield from mark_branches(part, known)
