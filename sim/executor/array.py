"""The array with its commands: dense passes, and scores and mixes of attention (hdl.attention)."""

from collections.abc import Generator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sim.contract.constants import CODES
from sim.contract.linear import add_pass, finish
from sim.executor import payloads
from sim.executor.array_command import check_command
from sim.executor.code_blocks import CodeBlocks
from sim.executor.score_rows import ScoreRows
from sim.executor.unit import Batch, Output, StallError, check
from sim.machine.ports import Port
from sim.machine.presets import MachinePreset
from sim.machine.records import unpack_records
from sim.machine.settings import Phase
from sim.machine.sweep import LAST, STEPS_PER_CODEBOOK, WRITE, run_program

Need = tuple[Port, int]
"""Port and payloads that a command waits for next; WEIGHTS stands for either way to give them, CODES is for words of
the oldest block, counted from its first."""

Steps = Generator[Need, NDArray[Any], None]


class ArrayUnit:
    """Commands as sequences of operands: each takes them in the order of docs/machine.md and refuses any other.

    A command may come before its codes, but none of the next one's operands may: the hardware holds a few of them, how
    many depends on the preset. rows: where logits go and codes of P come from. blocks: streamed codes.
    """

    inputs: Final = frozenset(
        {
            Port.ARRAY_COMMAND,
            Port.CODEBOOK,
            Port.WEIGHTS,
            Port.WEIGHTS_TURNED,
            Port.SCALE,
            Port.BIAS,
            Port.CODE_BLOCK,
            Port.CODES,
            Port.THRESHOLD,
            Port.SCORE_LEVEL,
        }
    )

    def __init__(self, preset: MachinePreset) -> None:
        self.rows: Final = ScoreRows()
        self.blocks: Final = CodeBlocks(preset)
        self._preset = preset
        self._program = np.zeros(preset.codebooks * STEPS_PER_CODEBOOK, np.int64)
        self._levels: dict[int, NDArray[np.float32]] = {}
        self._accumulators = np.zeros((preset.token_depth, preset.columns), np.int64)
        self._accumulated = 0
        self._command: Steps | None = None
        self._need: Need | None = None
        self._parts: list[NDArray[Any]] = []
        self._results: list[Output] = []
        self._gives = True

    @property
    def settled(self) -> bool:
        """Once what it has given is in memory, no code is on its way to the array."""
        return self._gives and self._need is None and self.blocks.empty

    def take(self, batch: Batch) -> list[Output]:
        """Tables, a command, or operands of the one that is active."""
        if batch.port == Port.ARRAY_COMMAND:
            fields = unpack_records(batch.port, batch.data)
            for number in range(len(batch.data)):
                self._start({name: int(value[number]) for name, value in fields.items()})
        elif batch.port == Port.CODEBOOK:
            self._write_codebook(**unpack_records(batch.port, batch.data))
        elif batch.port in (Port.THRESHOLD, Port.SCORE_LEVEL):
            self.rows.write_table(batch.port, unpack_records(batch.port, batch.data))
        elif batch.port == Port.CODE_BLOCK:
            for words in unpack_records(batch.port, batch.data)["words"].tolist():
                self.blocks.begin(words)
                self._read_codes()
        elif batch.port == Port.CODES:
            self.blocks.fill(batch.data)
            self._read_codes()
        else:
            self._feed(batch)
        results, self._results = self._results, []
        return results

    def left(self) -> str:
        """A command that lacks operands, or what is left of attention."""
        if self._need is not None:
            return f"an ARRAY_COMMAND still waits for {self._due()}"
        return self.blocks.left() or self.rows.left()

    def _due(self) -> str:
        assert self._need is not None
        port, count = self._need
        return f"{count} words of CODES" if port == Port.CODES else f"{count} payloads of {port.name}"

    def _write_codebook(self, address: NDArray[np.int64], step: NDArray[np.int64]) -> None:
        check(address.max() < self._program.size, f"codebook memory has no address {address.max()}")
        self._program[address] = step
        self._levels.clear()

    def _start(self, command: dict[str, int]) -> None:
        if self._need is not None:
            raise StallError(f"an ARRAY_COMMAND comes, but the one before still waits for {self._due()}")
        check_command(command, self._preset)
        phase = Phase(command["phase"])
        steps = {Phase.SCORES: self._scores, Phase.MIX: self._mix, Phase.DENSE: self._dense}
        self._gives = phase != Phase.SCORES and bool(command["last"])
        self._command = steps[phase](command)
        self._need = next(self._command, None)

    def _feed(self, batch: Batch) -> None:
        port = Port.WEIGHTS if batch.port == Port.WEIGHTS_TURNED else batch.port
        data = batch.data
        while len(data):
            if self._need is None or self._command is None:
                raise StallError(f"{len(data)} payloads of {batch.port.name} are left, no ARRAY_COMMAND takes them")
            wanted, count = self._need
            if port != wanted:
                raise StallError(f"{batch.port.name} comes where {self._due()} are due")
            self._parts.append(self._operand(batch.port, data[:count]))
            taken = min(count, len(data))
            data = data[taken:]
            self._need = (wanted, count - taken)
            if count == taken:
                whole = self._parts[0] if len(self._parts) == 1 else np.concatenate(self._parts)
                self._parts = []
                self._go_on(whole)
                self._read_codes()

    def _go_on(self, operand: NDArray[Any]) -> None:
        assert self._command is not None
        try:
            self._need = self._command.send(operand)
        except StopIteration:
            self._need = None

    def _read_codes(self) -> None:
        """The command goes on while the codes that it waits for are there."""
        while self._need is not None and self._need[0] == Port.CODES and self.blocks.holds(self._need[1]):
            self._go_on(_NOTHING)

    def _codes(self, command: dict[str, int], step: int) -> Generator[Need, NDArray[Any], NDArray[np.uint8]]:
        """Codes uint8 (queries, rows) of a RUN whose group and run are word `step` of a token."""
        first, pitch, queries = command["word"] + step, command["pitch"], command["queries"]
        yield Port.CODES, first + (queries - 1) * pitch + 1
        return self.blocks.read(first, pitch, queries)

    def _operand(self, port: Port, data: NDArray[np.uint8]) -> NDArray[Any]:
        if port == Port.SCALE:
            return payloads.scales(data)[0]
        if port == Port.BIAS:
            return payloads.biases(data)[0]
        preset = self._preset
        return payloads.weights(port, data, preset.loader_rows, preset.columns).astype(np.float32)

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

    @property
    def _load(self) -> Need:
        return Port.WEIGHTS, self._preset.rows // self._preset.loader_rows

    def _dense(self, command: dict[str, int]) -> Steps:
        queries, first = command["queries"], command["first"]
        levels = self._levels_of(command["codebook"])
        scale = yield Port.SCALE, 1
        bias = (yield Port.BIAS, 1) if first else scale
        weights = yield self._load
        codes = yield from self._codes(command, 0)
        if command["release"]:
            self.blocks.release()
        check(
            bool(first) or queries <= self._accumulated,
            f"{queries} tokens go on accumulating, {self._accumulated} have begun",
        )
        before = None if first else self._accumulators[:queries]
        self._end_tile(add_pass(before, products(levels[codes], weights), scale, bias), give=bool(command["last"]))

    def _scores(self, command: dict[str, int]) -> Steps:
        queries, keys, codebook, split = (command[name] for name in ("queries", "keys", "codebook", "split"))
        self.rows.announce(queries, keys)
        words = []
        for _ in range(command["tiles"]):
            total, bias, weights = _NOTHING, None, _NOTHING
            for load in range(command["groups"] * command["planes"]):
                group = load // command["planes"]
                for run in range(command["runs"]):
                    scale = yield Port.SCALE, 1
                    start = bias is None
                    bias = (yield Port.BIAS, 1) if bias is None else bias
                    weights = (yield self._load) if run == 0 or split else weights
                    codes = yield from self._codes(command, group * command["runs"] + run)
                    self.rows.check_room()
                    levels = self._levels_of(codebook + (run if split else 0))
                    total = add_pass(None if start else total, products(levels[codes], weights), scale, bias)
            words.append(finish(total))
            self._end_tile(total, give=False)
        if command["release"]:
            self.blocks.release()
        self.rows.add_logits(np.concatenate(words, axis=1)[:, :keys])

    def _mix(self, command: dict[str, int]) -> Steps:
        rows, groups = self._preset.rows, command["groups"]
        self.rows.check_mix(command["queries"], command["keys"])
        streamed: NDArray[np.float32] | None = None
        for _ in range(command["tiles"]):
            total, bias = _NOTHING, None
            for load in range(groups * command["planes"]):
                weights = _NOTHING
                group = load // command["planes"]
                for run in range(command["runs"]):
                    scale = yield Port.SCALE, 1
                    start = bias is None
                    bias = (yield Port.BIAS, 1) if bias is None else bias
                    weights = (yield self._load) if run == 0 else weights
                    if streamed is None:
                        streamed = self.rows.streamed(self._levels_of(command["codebook"]), groups * rows)
                    part = streamed[run, :, group * rows : (group + 1) * rows]
                    total = add_pass(None if start else total, products(part, weights), scale, bias)
            self._end_tile(total, give=True)

    def _end_tile(self, total: NDArray[np.int64], *, give: bool) -> None:
        """Token memory keeps the accumulators (queries, columns); with `give` results leave."""
        self._accumulators[: len(total)] = total
        self._accumulated = max(self._accumulated, len(total))
        if give:
            self._results.append((Port.RESULTS, payloads.wide_bytes(finish(total))))


_NOTHING: Final[NDArray[Any]] = np.zeros((0, 0), np.int64)


def products(levels: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[np.int64]:
    """Sums int64 (queries, columns): at most 64 products of 120, exact in float32."""
    return (levels @ weights).astype(np.int64)
