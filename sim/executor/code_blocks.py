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
        self._newest = _Block(np.zeros((0, self._beat_codes), np.uint8), 0)

    @property
    def empty(self) -> bool:
        """All blocks that have begun are complete and have been given back."""
        return not self._blocks and not self._missing

    def begin(self, words: int) -> None:
        """A block begins. Raises StallError where no half is free, or the block before is not complete."""
        check(1 <= words <= self._words_max, f"a block of {words} words, 1..{self._words_max} are possible")
        if self._missing:
            raise StallError(f"a CODE_BLOCK comes, but {self._lacking()}")
        if len(self._blocks) == HALVES:
            raise StallError(f"a CODE_BLOCK comes while {HALVES} blocks have not been given back")
        beats = words * self._rows // self._beat_codes
        self._newest = _Block(np.zeros((beats, self._beat_codes), np.uint8), words)
        self._blocks.append(self._newest)

    def fill(self, data: NDArray[np.uint8]) -> None:
        """Beats uint8 (n, beat bytes) of the newest block. Raises StallError where it has no room for them."""
        block = self._newest
        if len(data) > self._missing:
            more = len(data) - self._missing
            raise StallError(f"{more} beats of CODES are left, the newest block of {block.words} words takes no more")
        block.codes[block.filled : block.filled + len(data)] = nibbles(data)
        block.filled += len(data)

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
        """The oldest block is given back; codes that it lacks still come, for nobody."""
        self._blocks.popleft()

    def left(self) -> str:
        """Blocks that lack codes, or that nobody has given back."""
        if self._missing:
            return self._lacking()
        return f"{len(self._blocks)} blocks of codes that no command has given back" if self._blocks else ""

    @property
    def _missing(self) -> int:
        return len(self._newest.codes) - self._newest.filled

    def _lacking(self) -> str:
        return f"the block of {self._newest.words} words before still lacks {self._missing} beats of CODES"
