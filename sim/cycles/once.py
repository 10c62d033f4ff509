"""The least that a layer has to move of external memory: what it takes and gives, every beat of it once."""

import numpy as np
from numpy.typing import NDArray

from sim.compiler.compile import Placed
from sim.compiler.traffic import is_near, near_share
from sim.machine.commands import Command, Opcode
from sim.machine.presets import MachinePreset


class Once:
    """Beats that a layer's commands read and that were there before it, and beats of its result.

    What a layer writes and reads again (rows of a chain, codes of q, k and v, codes of long tokens) does not count, as
    a larger near memory would hold it; nor do commands. An operand that is overwritten by the result counts both ways.
    """

    def __init__(self, preset: MachinePreset, result: Placed) -> None:
        self._preset, self._result = preset, result
        self._external = preset.memory_bytes // preset.beat_bytes
        # Operands of an addition may be in one memory each, and one READ takes both.
        beats = self._external + preset.near_bytes // preset.beat_bytes
        self._read = np.zeros(beats, np.bool_)
        self._own = np.zeros(beats, np.bool_)
        self._open: list[Command] = []

    def do(self, command: Command) -> None:
        """One more command, in the order in which they are done, its address resolved."""
        if command.opcode == Opcode.WAIT:
            for write in self._open:
                self._places(self._own, write)[...] = True
            self._open.clear()
        elif command.opcode == Opcode.WRITE and not is_near(command, self._preset):
            self._open.append(command)
        elif command.opcode == Opcode.READ and near_share(command, self._preset) < 1:
            places = self._places(self._read, command)
            # What was written since the last WAIT is not there yet: the beat is still that from before the layer.
            np.logical_or(places, ~self._places(self._own, command), out=places)

    def _places(self, beats: NDArray[np.bool_], command: Command) -> NDArray[np.bool_]:
        """A view of the beats that a READ or WRITE moves, one dimension a loop."""
        beat = self._preset.beat_bytes
        steps = (beat, *command.strides)
        strides = tuple(step // beat if count > 1 else 0 for step, count in zip(steps, command.counts, strict=True))
        return np.ndarray(command.counts[::-1], np.bool_, beats, command.address // beat, strides[::-1])

    @property
    def beats(self) -> int:
        """Of inputs, weights and tables, and of the result with what fills up its tokens."""
        tokens = int(np.prod(self._result.shape[:-1]))
        return int(self._read[: self._external].sum()) + -(-tokens * self._result.pitch // self._preset.beat_bytes)
