"""The array with its commands, the softmax and the position unit as a timeline."""

from collections import deque
from dataclasses import dataclass

from sim.cycles import delays
from sim.cycles.code_blocks import CodeBlockTimes
from sim.cycles.delays import Delays
from sim.cycles.results import ResultsTime
from sim.cycles.units import Taking, fields_of
from sim.machine.commands import Command
from sim.machine.ports import Port
from sim.machine.presets import MachinePreset
from sim.machine.settings import Phase, PositionKind

UNIFORM_STEPS = 17
"""Of a codebook that the program writes from memory which is not in its image."""


@dataclass
class _Active:
    """A command, when it was taken, and how many of its RUNs are over."""

    fields: dict[str, int]
    taken: float
    runs: int = 0

    @property
    def per_tile(self) -> int:
        """RUNs of a tile."""
        return self.fields["groups"] * self.fields["planes"] * self.fields["runs"]

    @property
    def over(self) -> bool:
        """All RUNs are."""
        return self.runs == self.fields["tiles"] * self.per_tile

    @property
    def word(self) -> int:
        """That the first token of the next RUN takes."""
        run = self.runs % self.fields["runs"]
        group = self.runs % self.per_tile // (self.fields["planes"] * self.fields["runs"])
        return self.fields["word"] + group * self.fields["runs"] + run

    @property
    def keeps(self) -> bool:
        """The next LOAD takes scales alone."""
        return not self.fields["split"] and self.runs % self.fields["runs"] != 0

    @property
    def emits(self) -> bool:
        """The next RUN gives results."""
        return bool(self.fields["last"]) and self.runs % self.per_tile == self.per_tile - 1

    @property
    def codebook(self) -> int:
        """Of the next LOAD."""
        return self.fields["codebook"] + (self.runs % self.fields["runs"] if self.fields["split"] else 0)


@dataclass
class _Position:
    """A command of the position unit: its fields, and when it is ready for values, or without values for rows."""

    fields: dict[str, int]
    ready: float

    def query_cycles(self) -> int:
        """To load what a query needs, or the table."""
        rows, columns = self.fields["rows"], self.fields["columns"]
        return rows * -(-columns // 2) if self.fields["kind"] == PositionKind.STATIC else rows + columns

    def beats(self, lanes: int) -> int:
        """Beats of a query, or of the table."""
        rows, columns = self.fields["rows"], self.fields["columns"]
        if self.fields["kind"] == PositionKind.STATIC:
            return rows * -(-columns // lanes)
        return -(-(2 * rows - 1) // lanes) - (-(2 * columns - 1) // lanes)


class ArrayTime:
    """Operands arrive in the order of the program; a RUN is over when its last operand has come and its tokens passed.

    results: where they go. blocks: where codes come from. steps: of the codebooks, by number. run_start: of the latest
    RUN. passes, run_cycles: RUNs so far, and their tokens: what the array would take if nothing else did. load_cycles,
    softmax_cycles, position_cycles: the same of the loader, the softmax and the position unit.
    """

    def __init__(
        self, preset: MachinePreset, *, results: ResultsTime, blocks: CodeBlockTimes, steps: dict[int, int]
    ) -> None:
        self._preset, self._delays, self._steps = preset, Delays(preset), steps
        self._results, self._blocks = results, blocks
        self._due = False  # a RUN has its operands, not its codes
        self._commands: deque[_Active] = deque()
        self._free = self.run_start = 0.0  # _free: the sequencer is idle
        self._scales = self._load = 0.0  # taken; the LOAD's last step
        self._row_group = 0
        self._position: _Position | None = None
        self._biases: deque[tuple[_Position, float]] = deque()  # with the time of their last value
        self._rows: deque[tuple[dict[str, int], float]] = deque()  # SCORES, and when their first row is complete
        self._sets: deque[float] = deque()  # when codes are complete
        self._softmax = 0.0
        self.passes = self.run_cycles = 0
        self.load_cycles = self.softmax_cycles = self.position_cycles = 0

    def before(self, command: Command, payloads: int) -> Taking:
        """How the payloads of a READ or SEND are taken."""
        if command.port == Port.ARRAY_COMMAND:
            return Taking(self.run_start + 1)
        if command.port == Port.CODE_BLOCK:
            return Taking(self._blocks.free())
        if command.port == Port.POSITION_VALUES and self._position is not None:
            position = self._position
            cycles = float(position.query_cycles())
            gate = position.ready
            if position.fields["kind"] == PositionKind.DECOMPOSED:
                words = -(-position.fields["rows"] * position.fields["columns"] // self._preset.lanes)
                cycles = max(cycles, words)
                gate = max(gate, self._rows[0][1] - cycles if self._rows else 0.0)
            return Taking(gate, cycles / position.beats(self._preset.lanes))
        return Taking()

    def after(self, command: Command, end: float) -> float:
        """The last payload was taken, or if it is of a LOAD offered, at `end`. Returns when its register is free."""
        port = command.port
        if port == Port.ARRAY_COMMAND:
            self._commands.append(_Active(fields_of(command), end))
        elif port == Port.SCALE:
            active = self._commands[0]
            begin = max(self._free, active.taken + 1)
            self._scales = max(begin + 1, end)
            self._load = begin + (delays.KEEP - delays.LOAD_EXTRA if active.keeps else 1)
            if active.keeps:
                self._run()
            return self._scales + self._delays.scale_taken
        elif port == Port.BIAS:
            self._scales = max(self._scales, end)
            return self._scales + self._delays.scale_taken
        elif port == Port.CODE_BLOCK:
            self._blocks.begin()
        elif port == Port.POSITION_COMMAND:
            fields = fields_of(command)
            prepare = max(self._preset.lanes + 3, fields["rows"], fields["first_query"] // fields["columns"])
            self._position = _Position(fields, end + prepare + delays.POSITION_START)
            words = -(-fields["rows"] * fields["columns"] // self._preset.lanes)
            self.position_cycles += fields["queries"] * words
            if fields["kind"] not in (PositionKind.STATIC, PositionKind.DECOMPOSED):
                self._biases.append((self._position, self._position.ready))
                self._soften()
        elif port == Port.POSITION_VALUES and self._position is not None:
            self._biases.append((self._position, end))
            self._soften()
        return end

    def codes(self, beats: float, start: float, end: float) -> None:
        """Beats of codes come from start to end."""
        self._blocks.fill(beats, start, end)
        if self._due:
            self._run()

    def weights(self, at: float) -> float:
        """A payload of weights is offered at `at`. Returns when its register is free."""
        active = self._commands[0]
        step = max(self._load, at)
        steps = self._steps.get(active.codebook, UNIFORM_STEPS)
        self._load = step + steps
        self.load_cycles += steps
        self._row_group += 1
        if self._row_group == self._delays.row_groups:
            self._row_group = 0
            self._run()
        return step + self._delays.weights_taken

    def _loaded(self) -> float:
        """When the first token of a RUN may pass: behind the LOAD and the command itself."""
        return max(self._load + delays.LOAD_EXTRA, self._scales + 1) + 1

    def _run(self) -> None:
        """The RUN due next has its operands; it passes once its codes are there."""
        active = self._commands[0]
        fields, emits = active.fields, active.emits
        queries, start = fields["queries"], self._loaded()
        if fields["phase"] == Phase.MIX:
            start = max(start, self._sets[0] + delays.GATHER if self._sets else 0.0)
            end = start + queries - 1
        else:
            first = self._blocks.word(active.word)
            last = self._blocks.word(active.word + (queries - 1) * fields["pitch"])
            self._due = first is None or last is None
            if first is None or last is None:
                return
            start = max(start, first)
            end = max(start + queries - 1, last)
        if emits and fields["phase"] != Phase.SCORES:
            end = self._results.passed(queries, start, end)
        self._pass(end)

    def _pass(self, end: float) -> None:
        """The last token of the RUN due next passes at `end`."""
        active = self._commands[0]
        fields, queries = active.fields, active.fields["queries"]
        self.run_start = self._loaded() - 1
        self._free = max(end + 1, self._loaded() + delays.SHORTEST_RUN)
        self.passes += 1
        self.run_cycles += queries
        active.runs += 1
        if not active.over:
            return
        self._commands.popleft()
        if fields["release"]:
            self._blocks.give_back(end)
        if fields["phase"] == Phase.MIX and self._sets:
            self._sets.popleft()
        elif fields["phase"] == Phase.SCORES:
            self._rows.append((fields, end + self._delays.result - queries + 1 + delays.REORDER))
            self._soften()

    def _soften(self) -> None:
        """Rows pass the softmax once they have their biases."""
        while self._rows and self._biases:
            (fields, first), (position, valued) = self._rows.popleft(), self._biases.popleft()
            words = -(-fields["keys"] // self._preset.lanes)
            self.softmax_cycles += fields["queries"] * words
            begin = max(first, self._softmax)
            end = begin + fields["queries"] * words
            if position.fields["kind"] == PositionKind.DECOMPOSED:
                end = max(end, valued + delays.POSITION_LATENCY + words)
            else:
                end = max(end, valued + delays.POSITION_LATENCY + fields["queries"] * words)
            self._softmax = end
            self._sets.append(end + self._delays.softmax_row(fields["keys"]) - words)
