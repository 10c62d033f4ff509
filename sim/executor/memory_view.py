"""Beats of memory that a READ or WRITE moves: four nested loops as one strided view."""

import numpy as np
from numpy.typing import NDArray

from sim.executor.unit import MachineError
from sim.machine.commands import Command
from sim.machine.faults import Fault


class MemoryView:
    """External memory and near memory behind it in beats, and which of them have been written since the last WAIT.

    memory: external, uint8, contiguous, writable, whole beats; it is not copied. near_bytes: of near memory, zero at
    first. writable: first address that may be written.
    """

    def __init__(self, memory: NDArray[np.uint8], near_bytes: int, beat_bytes: int, writable: int) -> None:
        if memory.dtype != np.uint8 or memory.ndim != 1 or not memory.flags.c_contiguous or memory.size % beat_bytes:
            raise ValueError(f"memory must be contiguous uint8 in whole beats of {beat_bytes} bytes")
        self.bytes = memory
        self._beat = beat_bytes
        self.near = np.zeros(near_bytes, np.uint8)
        self._beats, self._near_beats = memory.reshape(-1, beat_bytes), self.near.reshape(-1, beat_bytes)
        self._writable = writable
        self._fresh = np.zeros(len(self._beats) + len(self._near_beats), np.bool_)
        self._written: list[NDArray[np.int64]] = []

    def read(self, command: Command, where: int) -> NDArray[np.uint8]:
        """Beats uint8 (beats, beat_bytes) of a READ.

        Raises MachineError for beats that are not aligned or outside memory, or written since the last WAIT.
        """
        low, high = self._check(command, where)
        shape = command.counts[::-1]
        first = command.address // self._beat
        steps = tuple(stride // self._beat if n > 1 else 0 for n, stride in self._loops(command))[::-1]
        if self._written and np.ndarray(shape, np.bool_, self._fresh, first, steps).any():
            raise MachineError(None, where, "the READ takes what a WRITE since the last WAIT has written")
        size = self.bytes.size
        if low < size < high:
            return self._across(self._numbers(command))
        memory, offset = (self.near, size) if low >= size else (self.bytes, 0)
        strides = (*(step * self._beat for step in steps), 1)
        view: NDArray[np.uint8] = np.ndarray((*shape, self._beat), np.uint8, memory, command.address - offset, strides)
        return view.reshape(-1, self._beat)

    def places(self, command: Command, where: int) -> NDArray[np.int64]:
        """Numbers int64 (beats,) of a WRITE's beats, in order. Raises MachineError as `read`, also below writable."""
        lowest, _ = self._check(command, where)
        if lowest < self._writable:
            raise MachineError(
                Fault.PROTECTED, where, f"the WRITE reaches {lowest:#x}, below the first writable {self._writable:#x}"
            )
        return self._numbers(command)

    def write(self, places: NDArray[np.int64], data: NDArray[np.uint8]) -> None:
        """Puts beats uint8 (n, beat_bytes) in their places."""
        external = places < len(self._beats)
        if external.all():
            self._beats[places] = data
        else:
            self._beats[places[external]] = data[external]
            self._near_beats[places[~external] - len(self._beats)] = data[~external]
        self._fresh[places] = True
        self._written.append(places)

    def settle(self) -> None:
        """A WAIT: what has been written may be read."""
        for places in self._written:
            self._fresh[places] = False
        self._written.clear()

    def _loops(self, command: Command) -> list[tuple[int, int]]:
        return list(zip(command.counts, (self._beat, *command.strides), strict=True))

    def _numbers(self, command: Command) -> NDArray[np.int64]:
        """Of the command's beats, in order; those of near memory go on behind external memory."""
        numbers = np.array([command.address // self._beat])
        for count, stride in self._loops(command):
            numbers = np.add.outer(np.arange(count) * (stride // self._beat), numbers).reshape(-1)
        return numbers

    def _across(self, numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Beats of both memories."""
        external = numbers < len(self._beats)
        data = np.empty((numbers.size, self._beat), np.uint8)
        data[external] = self._beats[numbers[external]]
        data[~external] = self._near_beats[numbers[~external] - len(self._beats)]
        return data

    def _check(self, command: Command, where: int) -> tuple[int, int]:
        """Lowest address of the command's beats, and the first behind them."""
        loops = [(count, stride) for count, stride in self._loops(command) if count > 1]
        if command.address % self._beat or any(stride % self._beat for _, stride in loops):
            raise MachineError(
                Fault.ALIGNMENT, where, f"address or stride is no multiple of a beat of {self._beat} bytes"
            )
        reach = [(count - 1) * stride for count, stride in loops]
        low = command.address + sum(step for step in reach if step < 0)
        high = command.address + sum(step for step in reach if step > 0) + self._beat
        size = self.bytes.size + self.near.size
        if low < 0 or high > size:
            raise MachineError(
                Fault.RANGE,
                where,
                f"beats from {low:#x} to {high:#x} are outside memory, {size:#x} bytes with the near",
            )
        return low, high
