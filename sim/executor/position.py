"""The position unit: biases for the rows of the softmax."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from sim.contract.attention import decomposed_bias, static_bias
from sim.executor.payloads import wide
from sim.executor.score_rows import ScoreRows
from sim.executor.unit import Batch, Output, StallError, check
from sim.machine.ports import Port
from sim.machine.presets import MachinePreset
from sim.machine.records import unpack_records
from sim.machine.settings import PositionKind


class PositionUnit:
    """A command, then what its kind needs: nothing, a table, or two vectors for every query. See docs/machine.md.

    rows: take the biases.
    """

    inputs: Final = frozenset({Port.POSITION_COMMAND, Port.POSITION_VALUES})

    def __init__(self, preset: MachinePreset, rows: ScoreRows) -> None:
        self._preset = preset
        self._rows = rows
        self._kind = PositionKind.NONE
        self._rows_columns = (1, 1)
        self._next_query = 0
        self._queries = 0
        self._begun = np.zeros((0, preset.lanes), np.int16)

    def take(self, batch: Batch) -> list[Output]:
        """A command, or values of the one that is active."""
        if batch.port == Port.POSITION_COMMAND:
            for row in range(len(batch.data)):
                self._start({name: int(value[row]) for name, value in unpack_records(batch.port, batch.data).items()})
            return []
        if not self._queries or self._kind == PositionKind.NONE:
            raise StallError("POSITION_VALUES come, but no POSITION_COMMAND takes them")
        self._begun = np.concatenate([self._begun, wide(batch.data)])
        if self._kind == PositionKind.STATIC:
            self._static()
        else:
            self._decomposed()
        return []

    def left(self) -> str:
        """Queries that still lack their values."""
        return f"a POSITION_COMMAND still waits for values of {self._queries} queries" if self._queries else ""

    def _start(self, command: dict[str, int]) -> None:
        if self._queries:
            raise StallError(f"a POSITION_COMMAND comes while {self._queries} queries of the one before lack values")
        if self._rows.biases_left:
            raise StallError("a POSITION_COMMAND comes while SCORES have not used the biases of the one before")
        rows, columns, queries = command["rows"], command["columns"], command["queries"]
        check(command["kind"] <= PositionKind.DECOMPOSED, f"there is no kind {command['kind']} of a position bias")
        check(min(rows, columns, queries) > 0, f"a position bias of {queries} queries of {rows} x {columns} keys")
        check(rows * columns <= self._preset.keys, f"{rows} x {columns} keys, {self._preset.keys} are possible")
        last = command["first_query"] + queries
        check(
            command["kind"] == PositionKind.NONE or last <= rows * columns,
            f"query {last - 1} is outside {rows} x {columns} pixels",
        )
        self._kind, self._rows_columns = PositionKind(command["kind"]), (rows, columns)
        self._next_query, self._queries = command["first_query"], queries
        if self._kind == PositionKind.NONE:
            self._give(np.broadcast_to(np.int16(0), (queries, rows * columns)))

    def _beats(self, values: int) -> int:
        return -(-values // self._preset.lanes)

    def _give(self, biases: NDArray[np.integer]) -> None:
        self._queries -= len(biases)
        self._next_query += len(biases)
        self._rows.add_biases(biases)

    def _static(self) -> None:
        rows, columns = self._rows_columns
        beats = rows * self._beats(columns)
        if len(self._begun) < beats:
            return
        if len(self._begun) > beats:
            raise StallError(f"POSITION_VALUES hold more than the {beats} beats of a table of {rows} x {columns}")
        table = self._begun.reshape(rows, -1)[:, :columns]
        self._begun = self._begun[:0]
        self._give(static_bias(table, self._next_query, self._queries))

    def _decomposed(self) -> None:
        rows, columns = self._rows_columns
        row_beats = self._beats(2 * rows - 1)
        beats = row_beats + self._beats(2 * columns - 1)
        queries = len(self._begun) // beats
        if queries > self._queries or (queries == self._queries and len(self._begun) % beats):
            raise StallError(f"POSITION_VALUES hold more than the vectors of {self._queries} queries")
        if not queries:
            return
        values = self._begun[: queries * beats].reshape(queries, -1)
        self._begun = self._begun[queries * beats :]
        middle = row_beats * self._preset.lanes
        by_row, by_column = values[:, : 2 * rows - 1], values[:, middle : middle + 2 * columns - 1]
        self._give(decomposed_bias(by_row, by_column, self._next_query))
        if self._rows.biases_ahead:
            raise StallError("POSITION_VALUES of every query come before the operands of their SCORES are complete")
