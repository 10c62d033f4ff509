"""A proof: a statement, how it is proved, and what it says in words."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from formal.statement import Statement


class Mode(StrEnum):
    """How far a proof reaches."""

    INDUCTION = "k-induction"
    """For runs of any length."""
    BOUNDED = "bounded"
    """For the first `depth` cycles of any run."""


@dataclass(frozen=True, kw_only=True)
class Proof:
    """One proof.

    name: of the unit, and of the parameters where there are several. says: the claim. assumes: what callers must keep
    to. write: makes the statement. depth: cycles of a bounded proof; of a proof by induction its base case, and how
    many cycles in a row must satisfy the statement before the next does. reach_depth: cycles within which every
    situation of the statement can be reached. platform: what the unit is elaborated for; None is the portable form.
    prepare: yosys lines before the statement is read. refine: yosys lines after it.
    """

    name: str
    says: str
    assumes: str
    write: Callable[[Statement], None]
    mode: Mode
    depth: int
    reach_depth: int
    platform: Any = None
    prepare: tuple[str, ...] = ()
    refine: tuple[str, ...] = ()

    @property
    def module(self) -> str:
        """Name of the module that writes the statement."""
        return getattr(self.write, "func", self.write).__module__
