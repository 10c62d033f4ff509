"""The array with its commands, the softmax and the position unit as a timeline."""

from collections import deque
from dataclasses import dataclass

from sim.cycles import delays
from sim.cycles.delays import Delays
from sim.cycles.units import Taking, fields_of
from sim.cycles.writer import Writer
from sim.machine.commands import Command
from sim.machine.ports import Port, payload_bytes
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

    steps: of the codebooks, by number. passes, run_cycles: RUNs so far, and their tokens: what the array would take if
    nothing else did.
    """

    def __init__(self, preset: MachinePreset, writer: Writer, steps: dict[int, int]) -> None:
        self._preset, self._delays, self._writer, self._steps = preset, Delays(preset), writer, steps
        self._out_beats = payload_bytes(Port.RESULTS, preset) / preset.beat_bytes
        self._commands: deque[_Active] = deque()
        self._free = self._run_start = 0.0  # of the sequencer: idle; its last RUN began
        self._scales = self._load = 0.0  # taken; the LOAD's last step
        self._row_group = 0
        self._position: _Position | None = None
        self._biases: deque[tuple[_Position, float]] = deque()  # with the time of their last value
        self._rows: deque[tuple[dict[str, int], float]] = deque()  # SCORES, and when their first row is complete
        self._sets: deque[float] = deque()  # when codes are complete
        self._softmax = 0.0
        self.passes = self.run_cycles = 0

    def before(self, command: Command, payloads: int) -> Taking:
        """How the payloads of a READ or SEND are taken."""
        if command.port == Port.ARRAY_COMMAND:
            return Taking(self._run_start + 1)
        if command.port == Port.CODES and self._commands:
            active = self._commands[0]
            outward = active.emits and active.fields["phase"] == Phase.DENSE
            return Taking(self._loaded(), 1.0, payloads * self._out_beats if outward else 0.0)
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
            if active.keeps and active.fields["phase"] == Phase.MIX:
                self._mix()
            return self._scales + self._delays.scale_taken
        elif port == Port.BIAS:
            self._scales = max(self._scales, end)
            return self._scales + self._delays.scale_taken
        elif port == Port.CODES:
            self._run(end)
        elif port == Port.POSITION_COMMAND:
            fields = fields_of(command)
            prepare = max(self._preset.lanes + 3, fields["rows"], fields["first_query"] // fields["columns"])
            self._position = _Position(fields, end + prepare + delays.POSITION_START)
            if fields["kind"] not in (PositionKind.STATIC, PositionKind.DECOMPOSED):
                self._biases.append((self._position, self._position.ready))
                self._soften()
        elif port == Port.POSITION_VALUES and self._position is not None:
            self._biases.append((self._position, end))
            self._soften()
        return end

    def weights(self, at: float) -> float:
        """A payload of weights is offered at `at`. Returns when its register is free."""
        active = self._commands[0]
        step = max(self._load, at)
        self._load = step + self._steps.get(active.codebook, UNIFORM_STEPS)
        self._row_group += 1
        if self._row_group == self._delays.row_groups:
            self._row_group = 0
            if active.fields["phase"] == Phase.MIX:
                self._mix()
        return step + self._delays.weights_taken

    def _loaded(self) -> float:
        """When the first token of a RUN may pass: behind the LOAD and the command itself."""
        return max(self._load + delays.LOAD_EXTRA, self._scales + 1) + 1

    def _mix(self) -> None:
        active = self._commands[0]
        start = max(self._loaded(), self._sets[0] + delays.GATHER if self._sets else 0.0)
        pace = max(self._out_beats, 1.0) if active.emits else 1.0
        self._run(start + pace * active.fields["queries"] - 1)

    def _run(self, end: float) -> None:
        """The RUN due next has its last token at `end`."""
        active = self._commands[0]
        fields, emits = active.fields, active.emits
        queries = fields["queries"]
        self._run_start = self._loaded() - 1
        self._free = max(end + 1, self._loaded() + delays.SHORTEST_RUN)
        self.passes += 1
        self.run_cycles += queries
        active.runs += 1
        if active.over:
            self._commands.popleft()
        if not emits:
            return
        result = end + self._delays.result
        if fields["phase"] != Phase.SCORES:
            self._writer.given(Port.RESULTS, queries * self._out_beats, result + self._out_beats)
            if fields["phase"] == Phase.MIX and active.over and self._sets:
                self._sets.popleft()
        elif active.over:
            self._rows.append((fields, result - queries + 1 + delays.REORDER))
            self._soften()

    def _soften(self) -> None:
        """Rows pass the softmax once they have their biases."""
        while self._rows and self._biases:
            (fields, first), (position, valued) = self._rows.popleft(), self._biases.popleft()
            words = -(-fields["keys"] // self._preset.lanes)
            begin = max(first, self._softmax)
            end = begin + fields["queries"] * words
            if position.fields["kind"] == PositionKind.DECOMPOSED:
                end = max(end, valued + delays.POSITION_LATENCY + words)
            else:
                end = max(end, valued + delays.POSITION_LATENCY + fields["queries"] * words)
            self._softmax = end
            self._sets.append(end + self._delays.softmax_row(fields["keys"]) - words)
