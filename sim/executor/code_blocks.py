"""The buffer of streamed codes: blocks that are filled in one order and read in any."""

from collections import deque
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sim.executor.payloads import nibbles
from sim.executor.unit import StallError, check
from sim.machine.presets import MachinePreset

HALVES: Final = 2
"""Blocks that are held at once."""


@dataclass
class _Block:
    """Codes uint8 (beats, nibbles of a beat), how many beats have come, and words of so many beats."""

    codes: NDArray[np.uint8]
    words: int
    filled: int = 0


class CodeBlocks:
    """Blocks of words of `rows` nibbles, oldest first: see "Blocks of codes" in docs/machine.md."""

    def __init__(self, preset: MachinePreset) -> None:
        self._rows, self._words_max = preset.rows, preset.block_words
        self._beat_codes = 2 * preset.beat_bytes
        self._blocks: deque[_Block] = deque()

    @property
    def held(self) -> int:
        """Blocks that have begun and have not been given back."""
        return len(self._blocks)

    def begin(self, words: int) -> None:
        """A block begins. Raises StallError where no half is free, or the block before is not complete."""
        check(1 <= words <= self._words_max, f"a block of {words} words, 1..{self._words_max} are possible")
        if self._blocks and self._blocks[-1].filled < len(self._blocks[-1].codes):
            raise StallError(f"a CODE_BLOCK comes, but {self._lacking()}")
        if len(self._blocks) == HALVES:
            raise StallError(f"a CODE_BLOCK comes while {HALVES} blocks have not been given back")
        beats = words * self._rows // self._beat_codes
        self._blocks.append(_Block(np.zeros((beats, self._beat_codes), np.uint8), words))

    def fill(self, data: NDArray[np.uint8]) -> None:
        """Beats uint8 (n, beat bytes) of the newest block. Raises StallError where it has no room for them."""
        if not self._blocks:
            raise StallError(f"{len(data)} beats of CODES come without a CODE_BLOCK")
        block = self._blocks[-1]
        end = block.filled + len(data)
        if end > len(block.codes):
            raise StallError(f"{end - len(block.codes)} beats of CODES are left, the block of {block.words} is full")
        block.codes[block.filled : end] = nibbles(data)
        block.filled = end

    def holds(self, words: int) -> bool:
        """The first `words` of the oldest block have come. Raises OperandError when it has fewer than that."""
        if not self._blocks:
            return False
        block = self._blocks[0]
        check(words <= block.words, f"word {words - 1} is read of a block of {block.words}")
        return block.filled * self._beat_codes >= words * self._rows

    def read(self, first: int, pitch: int, tokens: int) -> NDArray[np.uint8]:
        """Codes uint8 (tokens, rows) of words first, first + pitch, ... of the oldest block."""
        words = self._blocks[0].codes.reshape(-1, self._rows)
        if not pitch:
            return np.broadcast_to(words[first], (tokens, self._rows))
        return words[first : first + (tokens - 1) * pitch + 1 : pitch]

    def release(self) -> None:
        """The oldest block is given back. Raises OperandError while codes of it are still to come."""
        block = self._blocks[0]
        check(block.filled == len(block.codes), f"a command gives back a block while {self._lacking()}")
        self._blocks.popleft()

    def left(self) -> str:
        """Blocks that lack codes, or that nobody has given back."""
        if self._blocks and self._blocks[-1].filled < len(self._blocks[-1].codes):
            return self._lacking()
        return f"{self.held} blocks of codes that no command has given back" if self._blocks else ""

    def _lacking(self) -> str:
        block = self._blocks[-1]
        missing = len(block.codes) - block.filled
        return f"the block of {block.words} words before still lacks {missing} beats of CODES"
