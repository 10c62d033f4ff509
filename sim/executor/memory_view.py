"""Beats of memory that a READ or WRITE moves: four nested loops as one strided view."""

import numpy as np
from numpy.typing import NDArray

from sim.executor.unit import MachineError
from sim.machine.commands import Command
from sim.machine.faults import Fault


class MemoryView:
    """The memory in beats, and which of them have been written since the last WAIT.

    memory: uint8, contiguous, writable, whole beats; it is not copied. writable: first address that may be written.
    """

    def __init__(self, memory: NDArray[np.uint8], beat_bytes: int, writable: int) -> None:
        if memory.dtype != np.uint8 or memory.ndim != 1 or not memory.flags.c_contiguous or memory.size % beat_bytes:
            raise ValueError(f"memory must be contiguous uint8 in whole beats of {beat_bytes} bytes")
        self.bytes = memory
        self._beat = beat_bytes
        self._beats = memory.reshape(-1, beat_bytes)
        self._writable = writable
        self._fresh = np.zeros(len(self._beats), np.bool_)
        self._written: list[NDArray[np.int64]] = []

    def read(self, command: Command, where: int) -> NDArray[np.uint8]:
        """Beats uint8 (beats, beat_bytes) of a READ.

        Raises MachineError for beats that are not aligned or outside memory, or written since the last WAIT.
        """
        self._check(command, where)
        shape = command.counts[::-1]
        first = command.address // self._beat
        steps = tuple(stride // self._beat if n > 1 else 0 for n, stride in self._loops(command))[::-1]
        if self._written and np.ndarray(shape, np.bool_, self._fresh, first, steps).any():
            raise MachineError(None, where, "the READ takes what a WRITE since the last WAIT has written")
        strides = (*(step * self._beat for step in steps), 1)
        view: NDArray[np.uint8] = np.ndarray((*shape, self._beat), np.uint8, self.bytes, command.address, strides)
        return view.reshape(-1, self._beat)

    def places(self, command: Command, where: int) -> NDArray[np.int64]:
        """Numbers int64 (beats,) of a WRITE's beats, in order. Raises MachineError as `read`, also below writable."""
        lowest = self._check(command, where)
        if lowest < self._writable:
            raise MachineError(
                Fault.PROTECTED, where, f"the WRITE reaches {lowest:#x}, below the first writable {self._writable:#x}"
            )
        places = np.array([command.address // self._beat])
        for count, stride in self._loops(command):
            places = np.add.outer(np.arange(count) * (stride // self._beat), places).reshape(-1)
        return places

    def write(self, places: NDArray[np.int64], data: NDArray[np.uint8]) -> None:
        """Puts beats uint8 (n, beat_bytes) in their places."""
        self._beats[places] = data
        self._fresh[places] = True
        self._written.append(places)

    def settle(self) -> None:
        """A WAIT: what has been written may be read."""
        for places in self._written:
            self._fresh[places] = False
        self._written.clear()

    def _loops(self, command: Command) -> list[tuple[int, int]]:
        return list(zip(command.counts, (self._beat, *command.strides), strict=True))

    def _check(self, command: Command, where: int) -> int:
        """Lowest address of the command's beats."""
        loops = [(count, stride) for count, stride in self._loops(command) if count > 1]
        if command.address % self._beat or any(stride % self._beat for _, stride in loops):
            raise MachineError(
                Fault.ALIGNMENT, where, f"address or stride is no multiple of a beat of {self._beat} bytes"
            )
        reach = [(count - 1) * stride for count, stride in loops]
        low = command.address + sum(step for step in reach if step < 0)
        high = command.address + sum(step for step in reach if step > 0) + self._beat
        if low < 0 or high > self.bytes.size:
            raise MachineError(
                Fault.RANGE, where, f"beats from {low:#x} to {high:#x} are outside memory of {self.bytes.size:#x} bytes"
            )
        return low
