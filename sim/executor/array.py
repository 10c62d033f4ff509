"""The array with its commands: dense passes, and scores and mixes of attention (hdl.attention)."""

from collections import deque
from collections.abc import Generator
from enum import IntEnum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sim.contract.constants import CODES
from sim.contract.linear import add_pass, finish
from sim.contract.softmax import score_codes
from sim.executor import payloads
from sim.executor.payloads import records
from sim.executor.unit import Batch, OperandError, Output, StallError, check
from sim.machine.ports import Port
from sim.machine.presets import MachinePreset
from sim.machine.sweep import LAST, STEPS_PER_CODEBOOK, WRITE, run_program

SETS_AHEAD: Final = 2
"""SCORES whose MIX has not begun when a further one may not begin either."""

SCORE_PLANES: Final = 2
"""Nibbles of a level of P."""


class Phase(IntEnum):
    """What a command of the array does."""

    SCORES = 0
    MIX = 1
    DENSE = 2


Need = tuple[Port, int]
"""Port and payloads that a command waits for next; WEIGHTS stands for either way to give them."""

Steps = Generator[Need, NDArray[Any], None]


class ArrayUnit:
    """Commands as sequences of operands: each takes them in the order of docs/machine.md and refuses any other."""

    inputs: Final = frozenset(
        {
            Port.ARRAY_COMMAND,
            Port.CODEBOOK,
            Port.WEIGHTS,
            Port.WEIGHTS_TURNED,
            Port.SCALE,
            Port.BIAS,
            Port.CODES,
            Port.THRESHOLD,
            Port.SCORE_LEVEL,
        }
    )

    def __init__(self, preset: MachinePreset) -> None:
        self._preset = preset
        self._program = np.zeros(preset.codebooks * STEPS_PER_CODEBOOK, np.int64)
        self._levels: dict[int, NDArray[np.float32]] = {}
        self._thresholds = np.zeros(CODES, np.int32)
        self._score_nibbles = np.zeros((CODES, SCORE_PLANES), np.uint8)
        self._accumulators = np.zeros((preset.token_depth, preset.columns), np.int64)
        self._accumulated = 0
        self._command: Steps | None = None
        self._need: Need | None = None
        self._parts: list[NDArray[Any]] = []
        self._results: list[Output] = []
        self._logits: deque[NDArray[np.int32]] = deque()
        self._biases: deque[NDArray[np.integer]] = deque()
        self._codes: deque[NDArray[np.uint8]] = deque()
        self._announced: deque[tuple[int, int]] = deque()

    def take(self, batch: Batch) -> list[Output]:
        """Tables, a command, or operands of the one that is active."""
        if batch.port == Port.ARRAY_COMMAND:
            for row in range(len(batch.data)):
                fields = records(batch.port, batch.data[row : row + 1])
                self._start({name: int(value[0]) for name, value in fields.items()})
        elif batch.port in (Port.CODEBOOK, Port.THRESHOLD, Port.SCORE_LEVEL):
            self._write_table(batch.port, records(batch.port, batch.data))
        else:
            self._feed(batch)
        results, self._results = self._results, []
        return results

    def take_position(self, rows: NDArray[np.integer]) -> None:
        """Position biases (queries, keys) for the next rows of logits."""
        self._biases.append(rows)
        self._soften()

    def left(self) -> str:
        """A command that lacks operands, rows that lack their bias, codes that lack their MIX."""
        if self._need is not None:
            return f"an ARRAY_COMMAND still waits for {self._need[1]} payloads of {self._need[0].name}"
        if self._logits:
            return "rows of SCORES still wait for their position bias"
        if self._biases:
            return "position biases are left for which there were no SCORES"
        return f"{len(self._announced)} SCORES are left without a MIX" if self._announced else ""

    def _write_table(self, port: Port, fields: dict[str, NDArray[np.int64]]) -> None:
        if port == Port.CODEBOOK:
            address = fields["address"]
            check(address.max() < self._program.size, f"codebook memory has no address {address.max()}")
            self._program[address] = fields["step"]
            self._levels.clear()
            return
        check(not self._announced, f"{port.name} comes while sets of SCORES wait for their MIX")
        check(fields["code"].max() < CODES, f"P has no code {fields['code'].max()}")
        if port == Port.THRESHOLD:
            check(fields["threshold"].max() < 1 << 15, "a threshold has more than 15 bits")
            self._thresholds[fields["code"]] = fields["threshold"]
        else:
            both = np.stack([fields["nibble0"], fields["nibble1"]], axis=1)
            check(both.max() < CODES, "a nibble exceeds 15")
            self._score_nibbles[fields["code"]] = both

    def _start(self, command: dict[str, int]) -> None:
        if self._need is not None:
            raise StallError(f"an ARRAY_COMMAND comes, but the one before still waits for {self._need[0].name}")
        queries, phase = command["queries"], command["phase"]
        check(phase in list(Phase), f"the array has no phase {phase}")
        check(1 <= queries <= self._preset.token_depth, f"{queries} queries, over token_depth")
        check(command["codebook"] < self._preset.codebooks, f"there is no codebook {command['codebook']}")
        for name in ("first", "last") if phase == Phase.DENSE else ():
            check(command[name] <= 1, f"{name} is 0 or 1, not {command[name]}")
        steps = {Phase.SCORES: self._scores, Phase.MIX: self._mix, Phase.DENSE: self._dense}
        self._command = steps[Phase(phase)](command)
        self._need = next(self._command, None)

    def _feed(self, batch: Batch) -> None:
        port = Port.WEIGHTS if batch.port == Port.WEIGHTS_TURNED else batch.port
        data = batch.data
        while len(data):
            if self._need is None or self._command is None:
                raise StallError(f"{len(data)} payloads of {batch.port.name} are left, no ARRAY_COMMAND takes them")
            wanted, count = self._need
            if port != wanted:
                raise StallError(f"{batch.port.name} comes where {count} payloads of {wanted.name} are due")
            self._parts.append(self._operand(batch.port, data[:count]))
            taken = min(count, len(data))
            data = data[taken:]
            self._need = (wanted, count - taken)
            if count == taken:
                whole = self._parts[0] if len(self._parts) == 1 else np.concatenate(self._parts)
                self._parts = []
                try:
                    self._need = self._command.send(whole)
                except StopIteration:
                    self._need = None

    def _operand(self, port: Port, data: NDArray[np.uint8]) -> NDArray[Any]:
        preset = self._preset
        if port == Port.SCALE:
            return payloads.scales(data)
        if port == Port.BIAS:
            return payloads.biases(data)
        if port == Port.CODES:
            return payloads.nibbles(data)
        return payloads.weights(port, data, preset.loader_rows, preset.columns)

    def _levels_of(self, codebook: int) -> NDArray[np.float32]:
        """Levels float32 (16,) that the program of a codebook fills the tables with."""
        if codebook not in self._levels:
            program = self._program[codebook * STEPS_PER_CODEBOOK : (codebook + 1) * STEPS_PER_CODEBOOK]
            ends = np.flatnonzero(program & LAST)
            check(ends.size > 0, f"codebook {codebook} has no program")
            steps = program[: ends[0] + 1]
            written = set((steps[(steps & WRITE) != 0] & (CODES - 1)).tolist())
            check(len(written) == CODES, f"the program of codebook {codebook} writes {len(written)} of {CODES} codes")
            self._levels[codebook] = np.array(run_program(steps.tolist(), 1), np.float32)
        return self._levels[codebook]

    def _loaded(self, weights: NDArray[np.int8]) -> NDArray[np.float32]:
        return weights.astype(np.float32)

    @property
    def _loads(self) -> Need:
        return Port.WEIGHTS, self._preset.rows // self._preset.loader_rows

    def _dense(self, command: dict[str, int]) -> Steps:
        for name in ("tiles", "groups", "planes", "runs"):
            check(command[name] == 1, f"{name} of DENSE is 1, not {command[name]}")
        queries = command["queries"]
        levels = self._levels_of(command["codebook"])
        scale = yield Port.SCALE, 1
        bias = (yield Port.BIAS, 1) if command["first"] else scale
        weights = yield self._loads
        codes = yield Port.CODES, queries
        before = None
        if not command["first"]:
            check(queries <= self._accumulated, f"{queries} tokens go on, {self._accumulated} have been accumulated")
            before = self._accumulators[:queries]
        total = add_pass(before, _products(levels[codes], self._loaded(weights)), scale[0], bias[0])
        self._store(total)
        if command["last"]:
            self._give(total)

    def _store(self, total: NDArray[np.int64]) -> None:
        self._accumulators[: len(total)] = total
        self._accumulated = max(self._accumulated, len(total))

    def _give(self, total: NDArray[np.int64]) -> None:
        self._results.append((Port.RESULTS, payloads.wide_bytes(finish(total))))

    def _scores(self, command: dict[str, int]) -> Steps:
        raise OperandError("SCORES")
        yield

    def _mix(self, command: dict[str, int]) -> Steps:
        raise OperandError("MIX")
        yield

    def _soften(self) -> None:
        score_codes(self._logits[0], self._thresholds)


def _products(levels: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[np.int64]:
    """Sums int64 (queries, columns): at most 64 products of 120, exact in float32."""
    return (levels @ weights).astype(np.int64)
