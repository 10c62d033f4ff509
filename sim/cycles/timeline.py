"""Commands on their way from fetch to the ports: who waits for whom, in cycles.

Every READ is a few numbers instead of its beats: when it is taken, its first and last request, its first and last beat
at the port. A beat waits for memory, for the beats before it, and for the unit behind its port.
"""

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.compiler.traffic import is_near, near_share
from sim.cycles import delays
from sim.cycles.array import ArrayTime
from sim.cycles.code_blocks import CodeBlockTimes
from sim.cycles.delays import Delays
from sim.cycles.memory import MemoryRate
from sim.cycles.moving import Moving
from sim.cycles.port import Port as MemoryPort
from sim.cycles.results import ResultsTime
from sim.cycles.units import Taking, Units
from sim.cycles.writer import Writer
from sim.machine.commands import COMMAND_BYTES, Command, Opcode
from sim.machine.ports import Port, payload_bytes, record_bytes
from sim.machine.presets import MachinePreset
from sim.machine.sweep import LAST, STEPS_PER_CODEBOOK

_WEIGHTS = (Port.WEIGHTS, Port.WEIGHTS_TURNED)
_ARRAY = frozenset(
    {
        Port.ARRAY_COMMAND,
        Port.SCALE,
        Port.BIAS,
        Port.CODE_BLOCK,
        Port.CODES,
        Port.POSITION_COMMAND,
        Port.POSITION_VALUES,
        *_WEIGHTS,
    }
)
NARROW, WIDE, WEIGHING = range(3)


@dataclass
class _Delivered:
    """Beats first..last of all READs were taken from start to end, evenly."""

    first: int
    last: int
    start: float
    end: float


class Timeline:
    """A machine from reset on, fed with commands in the order in which they are done.

    image: what memory holds at first; of it only codebooks and commands of the position unit are looked at.
    """

    def __init__(self, preset: MachinePreset, memory: MemoryRate, image: NDArray[np.uint8]) -> None:
        self._preset, self._memory, self._image = preset, memory, image
        self._port = MemoryPort(memory.beat)
        # What has the image: external memory, or a source of its own.
        self._image_port = self._port if memory.source is None else MemoryPort(memory.source)
        self._writer = Writer()
        self._steps: dict[int, int] = {}
        self._units = Units(preset, self._writer, self._codes)
        self._results = ResultsTime(
            preset, memory.beat, writer=self._writer, memory=self._port, routes=self._units.routes
        )
        self.array = ArrayTime(preset, results=self._results, blocks=CodeBlockTimes(preset), steps=self._steps)
        self._command_beats = COMMAND_BYTES // preset.beat_bytes
        self._answer = delays.TO_MEMORY + memory.latency + delays.FROM_MEMORY
        self._near_answer = Delays(preset).near
        self._asked = float(delays.START)
        self._taken: deque[float] = deque([0.0] * delays.FETCH_DEPTH, maxlen=delays.FETCH_DEPTH)
        self._jump = 0.0
        self._control = 0.0
        self._loops = 0.0  # the reader's loops may begin a READ
        self._jobs: deque[float] = deque([0.0] * delays.JOBS_DEPTH, maxlen=delays.JOBS_DEPTH)
        self._delivery = 0.0  # the last beat of the job before was taken
        self._registers = [0.0, 0.0, 0.0]
        self._scale = 0.0  # the register that a scale of several beats waits in is free
        self._requested = 0
        self._first = self._last = 0.0  # requests of the READ in progress
        self._delivered: deque[_Delivered] = deque(maxlen=2 * delays.READ_DEPTH)
        self._sizes = {port: payload_bytes(port, preset) for port in Port}

    def do(self, command: Command, *, again: bool = False) -> None:
        """One more command. again: a REPEAT whose body follows once more."""
        held = self._fetch(again)
        at = max(held, self._control + 1)
        opcode = command.opcode
        if opcode in (Opcode.READ, Opcode.SEND):
            at = self._deliver(command, at)
        elif opcode == Opcode.WRITE:
            assert command.port is not None
            near = is_near(command, self._preset)
            self._writer.begin(command.port, command.beats, at + delays.LOOPS, near=near)
        elif opcode in (Opcode.WAIT, Opcode.STOP):
            at = max(at, self._writer.idle())
            if opcode == Opcode.STOP:
                at = max(at, self._delivery + 1)
        self._control = at
        self._taken.append(at)

    def end(self) -> float:
        """Cycles from start to the end of a program whose last command has been STOP."""
        return self._control + delays.STOP

    def busy(self) -> dict[str, float]:
        """Cycles that every unit has needed so far, at its rate, by the names of hdl.activity.machine_parts."""
        array, units = self.array, dict(self._units.busy)
        units["activation"] += self._results.activated
        return {
            "table loads": array.load_cycles,
            "array": array.run_cycles,
            "softmax": array.softmax_cycles,
            "position": array.position_cycles,
            **units,
        }

    def _fetch(self, again: bool) -> float:
        """When the next command is held in the control."""
        start = max(self._asked, self._taken[0] + 1, self._jump)
        self._asked = self._image_port.fetched(start, self._command_beats)
        arrived = self._asked + self._answer
        self._jump = arrived if again else 0.0
        return arrived + delays.FETCH_QUEUE - 1

    def _deliver(self, command: Command, at: float) -> float:
        """A READ or SEND at the control from `at` on. Returns when it is taken."""
        port = command.port
        assert port is not None
        size, beat = self._sizes[port], self._preset.beat_bytes
        send = command.opcode == Opcode.SEND
        if send:
            payloads = -(-len(command.payload) // size)
            beats = max(payloads * size // beat, 1)
        else:
            beats = command.beats
            payloads = beats * beat // size
            if command.payloads:
                payloads = min(payloads, command.payloads)
        taken = max(at, self._jobs[0], 0.0 if send else self._loops)
        owner = self.array if port in _ARRAY else self._units
        taking = owner.before(command, payloads)
        share, rate = self._apart(command)
        near = is_near(command, self._preset)
        of_source = self._memory.source is not None and not near
        moving = Moving(beats, share, rate, taking.writes, taking.near_writes, one_line=of_source)
        if send:
            first = last = taken
        else:
            first, last = self._request(taken, moving, max(taking.gate, self._delivery + 1), near=near)
        begun = max(taken + 2, self._delivery)
        self._jobs.append(begun)
        start = max(first, begun + 1)
        if port in _WEIGHTS:
            pace = self._memory.beat if near or not share else rate
            end = self._weights(start, last, beats, size // beat, pace)
        elif size > beat:
            end = self._wide(command, payloads, taking, start, last)
        else:
            end = self._narrow(command, payloads, taking, start, last)
        self._delivery = end
        if not send:
            self._delivered.append(_Delivered(self._requested - beats, self._requested - 1, start, end))
            self._asked_until(moving, near=near)
        if port == Port.CODEBOOK and not send:
            self._note_codebook(command)
        return taken

    def _apart(self, command: Command) -> tuple[float, float]:
        """The share of beats of a READ that a port beside that of external memory gives, and cycles of such a beat."""
        source = self._memory.source
        if source is not None and command.address < len(self._image):
            return 1.0, source
        return near_share(command, self._preset), 1.0

    def _credit(self, number: int) -> float:
        """When beat `number` of all READs may be asked for: READ_DEPTH before it must have left."""
        number -= delays.READ_DEPTH
        for part in self._delivered:
            if part.first <= number <= part.last:
                share = (number - part.first) / max(part.last - part.first, 1)
                return part.start + share * (part.end - part.start) + 1
        return 0.0

    def _request(self, taken: float, moving: Moving, gate: float, *, near: bool) -> tuple[float, float]:
        """When the first and the last beat of a READ are there, its port never late."""
        beats = moving.beats
        self._first = max(taken + delays.LOOPS, self._credit(self._requested))
        burst = min(beats, delays.READ_DEPTH)
        last = self._moved(self._first, moving.cycles(self._memory, beats) * (beats - 1) / beats, moving)
        last = max(last, self._credit(self._requested + burst - 1))
        if beats > burst and moving.writes + moving.near_writes:
            # The first beats wait for the unit, or for the READ before; then the rest and all results share the port.
            shared = moving.cycles(self._memory, beats - burst)
            last = max(last, self._moved(gate, shared, moving) - delays.RESULTS_BEHIND)
        self._last = last
        self._requested += beats
        answer = self._near_answer if near and moving.apart == 1 else self._answer
        return self._first + answer, last + answer

    def _moved(self, start: float, cycles: float, moving: Moving) -> float:
        """When so many cycles of a READ are over, with results of the array in between."""
        return self._port.read(start, cycles) if moving.external else start + cycles

    def _asked_until(self, moving: Moving, *, near: bool) -> None:
        """The requests of a READ: as many as may be under way at once, the rest as its beats leave."""
        beats = moving.beats
        number = self._requested - beats
        last = max(self._last, self._credit(self._requested - 1))
        burst = min(beats, delays.READ_DEPTH)
        apart = burst * moving.apart * moving.apart_rate
        filled = self._first + max(burst, apart, burst * (1 - moving.apart) * self._memory.beat)
        resumed = self._credit(number + burst) if beats > burst else last + 1
        self._loops = last
        if moving.apart == 1 and not near:
            self._image_port.use(self._first, last + 1, beats)
        if resumed <= filled:
            self._port.use(self._first, last + 1, moving.of_port(beats))
            return
        self._port.use(self._first, filled, burst * (1 - moving.apart))
        self._port.use(resumed, last + 1, moving.of_port(beats - burst))

    def _codes(self, beats: float, start: float, end: float) -> None:
        self.array.codes(beats, start, end)

    def _narrow(self, command: Command, payloads: int, taking: Taking, start: float, last: float) -> float:
        per_beat = max(self._preset.beat_bytes // self._sizes[command.port or Port.COPY], 1)
        entered = max(start, self._registers[NARROW] + 1)
        first = max(entered + 1, taking.gate)
        final = payloads - (-(-payloads // per_beat) - 1) * per_beat  # payloads of the last beat that counts
        end = max(first + payloads * taking.interval - 1, last + 1 + (final - 1) * taking.interval, taking.last)
        # The last beat enters the register behind the payloads of the one before it.
        behind = end - final * taking.interval if payloads > per_beat else 0.0
        delivered = max(behind, entered, last)
        self._registers[NARROW] = self._hand_over(command, payloads, end, first)
        return delivered

    def _wide(self, command: Command, payloads: int, taking: Taking, start: float, last: float) -> float:
        parts = self._sizes[command.port or Port.COPY] // self._preset.beat_bytes
        entered = max(start, self._registers[WIDE])
        first = max(entered + parts, taking.gate)
        interval = max(parts, taking.interval)
        end = max(first + (payloads - 1) * interval, last + 1)
        delivered = max(end - interval if payloads > 1 else 0.0, entered + parts - 1, last)
        if command.port == Port.SCALE:
            # It waits for the bias in a register of its own (hdl.machine.machine).
            self._registers[WIDE] = moved = max(end, self._scale)
            self._scale = self._hand_over(command, payloads, moved + 1, moved + 1) + 1
        else:
            self._registers[WIDE] = self._hand_over(command, payloads, end, first)
        return delivered

    def _hand_over(self, command: Command, payloads: int, end: float, first: float) -> float:
        """When the register is free."""
        if command.port not in _ARRAY:
            self._units.after(command, payloads, first, end)
            return end
        if command.port == Port.CODES:
            self._codes(payloads, first, end)
            return end
        if command.port == Port.POSITION_COMMAND and command.opcode == Opcode.READ:
            record = self._image[command.address : command.address + record_bytes(command.port)]
            command = Command(Opcode.SEND, command.port, payload=record.tobytes())
        return self.array.after(command, first if command.port in (Port.SCALE, Port.BIAS) else end)

    def _weights(self, start: float, last: float, beats: int, parts: int, pace: float) -> float:
        at = start
        for number in range(beats // parts):
            entered = max(at, self._registers[WEIGHING])
            done = max(entered + parts - 1, last - (beats - (number + 1) * parts) * pace)
            self._registers[WEIGHING] = self.array.weights(done + 1)
            at = done + 1
        return at - 1

    def _note_codebook(self, command: Command) -> None:
        """Steps of the codebooks that a READ writes: where the program of each ends."""
        beat = self._preset.beat_bytes
        words = self._image[command.address : command.address + command.counts[0] * beat].view("<u2").reshape(-1, 2)
        if command.payloads:
            words = words[: command.payloads]
        for address, step in words.tolist():
            if step & LAST:
                self._steps[address // STEPS_PER_CODEBOOK] = address % STEPS_PER_CODEBOOK + 1
