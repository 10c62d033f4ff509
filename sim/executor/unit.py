"""What the executor knows of a unit, and how a unit says that a program is wrong."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sim.contract.errors import UserError
from sim.machine.faults import Fault
from sim.machine.ports import Port


class MachineError(UserError):
    """A program that the machine cannot finish. where: address of the command. fault: what the hardware shows.

    fault is None for what no hardware notices: it goes on, with numbers that nobody has defined.
    """

    def __init__(self, fault: Fault | None, where: int, text: str) -> None:
        name = "not noticed by hardware" if fault is None else f"error {fault.value} ({fault.name})"
        super().__init__(f"command at {where:#x}: {text} [{name}]; compile the program again")
        self.fault = fault
        self.where = where


class StallError(Exception):
    """Raised by a unit that would wait for ever: the operand that comes is not the one it waits for."""


class OperandError(Exception):
    """Raised by a unit for a setting outside what it is built for, or a table changed while it is in use."""


@dataclass(frozen=True)
class Batch:
    """Payloads that one command gives to a port.

    data: uint8 (payloads, bytes of a payload). token: payloads from one `last` to the next, the first of them at
    data[token - 1]; 0: there is none.
    """

    port: Port
    data: NDArray[np.uint8]
    token: int = 0


Output = tuple[Port, NDArray[np.uint8]]
"""An output port and what it gives, in bytes."""


class Unit(Protocol):
    """take: the outputs that a batch causes. left: what the unit still holds or waits for, or an empty string."""

    @property
    def inputs(self) -> frozenset[Port]: ...

    def take(self, batch: Batch) -> Iterable[Output]: ...

    def left(self) -> str: ...


def check(condition: bool | np.bool_, text: str) -> None:
    """Raise OperandError with `text` unless the condition holds."""
    if not condition:
        raise OperandError(text)
