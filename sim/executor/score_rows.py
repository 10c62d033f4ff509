"""Between SCORES and MIX: rows of logits, their position biases, the softmax, and codes that wait for their MIX."""

from collections import deque
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sim.contract.constants import CODES
from sim.contract.softmax import score_codes
from sim.executor.unit import StallError, check
from sim.machine.ports import Port
from sim.machine.settings import SCORE_PLANES

SETS_AHEAD: Final = 2
"""SCORES whose MIX has not begun when a further one may not begin either."""


class ScoreRows:
    """Sets of rows in order; the tables of the softmax and of the levels of its codes."""

    def __init__(self) -> None:
        self._thresholds = np.zeros(CODES, np.int32)
        self._nibbles = np.zeros((CODES, SCORE_PLANES), np.uint8)
        self._announced: deque[tuple[int, int]] = deque()
        self._logits: deque[NDArray[np.int32]] = deque()
        self._biases: deque[NDArray[np.integer]] = deque()
        self._codes: deque[NDArray[np.uint8]] = deque()

    @property
    def biases_left(self) -> int:
        """Rows of biases that no logits have used yet."""
        return sum(map(len, self._biases))

    @property
    def biases_ahead(self) -> bool:
        """Biases have come for which there are no logits yet."""
        return bool(self._biases) and not self._logits

    def write_table(self, port: Port, fields: dict[str, NDArray[np.int64]]) -> None:
        """Records of THRESHOLD or SCORE_LEVEL."""
        check(not self._announced, f"{port.name} comes while sets of SCORES wait for their MIX")
        check(fields["code"].max() < CODES, f"P has no code {fields['code'].max()}")
        if port == Port.THRESHOLD:
            check(fields["threshold"].max() < 1 << 15, "a threshold has more than 15 bits")
            self._thresholds[fields["code"]] = fields["threshold"]
        else:
            nibbles = np.stack([fields[f"nibble{plane}"] for plane in range(SCORE_PLANES)], axis=1)
            check(nibbles.max() < CODES, "a nibble exceeds 15")
            self._nibbles[fields["code"]] = nibbles

    def announce(self, queries: int, keys: int) -> None:
        """SCORES begin."""
        if len(self._announced) == SETS_AHEAD:
            raise StallError(f"SCORES come while {SETS_AHEAD} sets wait for their MIX")
        self._announced.append((queries, keys))

    def check_room(self) -> None:
        """Results of SCORES come: the rows of the set before must have left."""
        if self._logits:
            raise StallError("rows of SCORES come while those before still wait for their position bias")

    def add_logits(self, logits: NDArray[np.int16]) -> None:
        """Rows (queries, keys) of SCORES."""
        self._logits.append(logits.astype(np.int32))
        self._soften()

    def add_biases(self, biases: NDArray[np.integer]) -> None:
        """Position biases (queries, keys) of the next rows."""
        self._biases.append(biases)
        self._soften()

    def check_mix(self, queries: int, keys: int) -> None:
        """A MIX begins: it must be that of the oldest set."""
        if not self._announced:
            raise StallError("a MIX comes without SCORES before it")
        check(self._announced[0] == (queries, keys), f"a MIX of {queries} x {keys} for {self._announced[0]} SCORES")

    def streamed(self, levels: NDArray[np.float32], width: int) -> NDArray[np.float32]:
        """Levels float32 (planes, queries, width) of the nibbles of the oldest set, 0 beyond its keys; it is let go."""
        if not self._codes:
            raise StallError("a MIX needs codes whose SCORES still wait for their position bias")
        self._announced.popleft()
        codes = self._codes.popleft()
        result = np.zeros((SCORE_PLANES, len(codes), width), np.float32)
        for plane in range(SCORE_PLANES):
            result[plane, :, : codes.shape[1]] = levels[self._nibbles[:, plane]][codes]
        return result

    def left(self) -> str:
        """Rows that lack their bias, biases without rows, codes that lack their MIX."""
        if self._logits:
            return "rows of SCORES still wait for their position bias"
        if self._biases:
            return "position biases are left for which there were no SCORES"
        return f"{len(self._announced)} SCORES are left without a MIX" if self._announced else ""

    def _soften(self) -> None:
        while self._logits and self.biases_left >= len(self._logits[0]):
            logits = self._logits.popleft()
            start = 0
            while start < len(logits):
                biases = self._biases.popleft()
                check(biases.shape[1] == logits.shape[1], f"biases of {biases.shape[1]} keys for {logits.shape[1]}")
                count = min(len(biases), len(logits) - start)
                logits[start : start + count] += biases[:count]
                start += count
                if count < len(biases):
                    self._biases.appendleft(biases[count:])
            self._codes.append(score_codes(logits, self._thresholds[1:]))
