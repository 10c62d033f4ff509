"""What takes the payloads of a port, how fast, and what it gives back: the units but the array."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sim.contract.constants import TILE_CHANNELS
from sim.cycles import delays
from sim.cycles.delays import Delays
from sim.cycles.writer import Writer
from sim.machine.commands import DIMENSIONS, Command, Opcode
from sim.machine.ports import ROUTES, Port
from sim.machine.presets import CODE_BYTES, MachinePreset
from sim.machine.records import sent_fields
from sim.machine.settings import TAPS

_VALUES: Final = frozenset(
    {
        Port.ENCODER_VALUES,
        Port.NORM_VALUES,
        Port.RESIDUAL_VALUES,
        Port.ACTIVATION_VALUES,
        Port.DEPTHWISE_VALUES,
        Port.COPY,
    }
)

UNIT_NAMES: Final = {
    Port.ENCODED: "encoder",
    Port.NORMED: "layer norm",
    Port.ACTIVATED: "activation",
    Port.CONVOLVED: "depthwise",
    Port.SUMS: "residual",
}
"""Units by their output; a copy has none."""

_WAITING: Final = {
    Port.ENCODER_PLANES: Port.ENCODED,
    Port.NORM_COMMAND: Port.NORMED,
    Port.NORM_PARAMETER: Port.NORMED,
    Port.ACTIVATION_SETTING: Port.ACTIVATED,
    Port.ACTIVATION_TABLE: Port.ACTIVATED,
    Port.DEPTHWISE_MAP: Port.CONVOLVED,
}
"""Ports that take nothing while results are under way, and whose."""


@dataclass(frozen=True)
class Taking:
    """gate: no payload is taken before. interval: cycles a payload. last: the last one is not taken before. writes:
    beats of external memory that the payloads cause while they are taken, near_writes: of near memory."""

    gate: float = 0.0
    interval: float = 1.0
    writes: float = 0.0
    near_writes: float = 0.0
    last: float = 0.0


@dataclass(frozen=True)
class Flow:
    """What a unit makes of values: cycles from first to last, the output, its beats, and cycles from the last value to
    the last of these."""

    cycles: float
    port: Port
    beats: float
    drain: float


def fields_of(command: Command) -> dict[str, int]:
    """Fields of the record that a SEND carries."""
    assert command.opcode == Opcode.SEND and command.port is not None
    return sent_fields(command.port, command.payload)


def token_beats(command: Command) -> int:
    """Beats of a token of a READ; all of them where no beat ends one."""
    beats = 1
    for count in command.counts[: command.token_dims or DIMENSIONS]:
        beats *= count
    return beats


class Units:
    """Encoder, LayerNorm, additions, activations, depthwise convolutions and copies, one behind the other by routes.

    Every unit is a rate and a delay; `idle` is when the last result of a unit was on its way. routes: outputs that are
    led to a unit, and beats of a token there, or 0. busy: cycles that each unit has needed so far, at its rate. codes:
    called as codes(beats, start, end) with those that go to the array.
    """

    def __init__(self, preset: MachinePreset, writer: Writer, codes: Callable[[float, float, float], None]) -> None:
        self._preset, self._delays, self._writer, self._codes_taken = preset, Delays(preset), writer, codes
        self._idle = dict.fromkeys(_WAITING.values(), 0.0)
        self._encoder = 0.0  # its last token is in the packer
        self._planes, self._norm_groups = 1, 1
        self._map = {"last_row": 0, "last_column": 0, "stride_two": 0}
        self.routes: dict[Port, int] = {}
        self.busy = dict.fromkeys(UNIT_NAMES.values(), 0.0)

    def before(self, command: Command, payloads: int) -> Taking:
        """How the payloads of a READ or SEND are taken."""
        port = command.port
        if port in _VALUES:
            flows = self._flows(command, payloads)
            cycles, end = max(flow.cycles for flow in flows), 0.0
            if port == Port.ENCODER_VALUES:
                # Short tokens wait in front of the packer, and the reader goes on.
                ahead = cycles - min(1.0, delays.ENCODER_HOLDS / command.beats) * cycles
                cycles, end = max(ahead, command.beats), self._encoder + ahead
            last = flows[-1]
            near = self._writer.near(last.port)
            writes = 0.0 if last.port in self.routes else last.beats
            return Taking(0.0, cycles / payloads, 0.0 if near else writes, writes if near else 0.0, end)
        self._set(command)
        # Settings that are in use wait until the last result has left.
        return Taking(self._idle[_WAITING[port]] if port in _WAITING else 0.0)

    def _flows(self, command: Command, payloads: int) -> list[Flow]:
        """Of the unit that takes a READ, and of those behind it."""
        flows = [self._flow(command, payloads)]
        while flows[-1].port in self.routes and flows[-1].port != Port.ENCODED:
            before = flows[-1]
            if ROUTES[before.port] == Port.ENCODER_VALUES:
                flow = self._encoded(before.beats, self.routes[before.port] or before.beats)
            else:
                flow = Flow(before.beats, Port.ACTIVATED, before.beats, delays.ACTIVATION)
            flows.append(flow)
        return flows

    def _flow(self, command: Command, payloads: int) -> Flow:
        port, beats = command.port, float(command.beats)
        if port == Port.ENCODER_VALUES:
            return self._encoded(beats, token_beats(command))
        if port == Port.NORM_VALUES:
            groups = self._norm_groups
            drain = self._delays.norm_turnaround + groups + delays.NORM_PIPELINE
            return Flow(payloads * self._delays.norm_token(groups) / groups, Port.NORMED, beats, drain)
        if port == Port.RESIDUAL_VALUES:
            return Flow(beats, Port.SUMS, beats / 2, delays.RESIDUAL)
        if port == Port.ACTIVATION_VALUES:
            return Flow(beats, Port.ACTIVATED, beats, delays.ACTIVATION)
        if port == Port.COPY:
            return Flow(beats, Port.COPIED, beats, 0)
        rows, columns = self._map["last_row"] + 1, self._map["last_column"] + 1
        kept = -(-rows // 2) * -(-columns // 2) if self._map["stride_two"] else rows * columns
        share = rows * columns
        step = TAPS // self._preset.depthwise_taps
        cycles = payloads * ((share + columns + 1) * step + 1) / share
        drain = (columns + 1) * step + 1 + delays.DEPTHWISE
        return Flow(cycles, Port.CONVOLVED, payloads * kept / share, drain)

    def _encoded(self, beats: float, token: float) -> Flow:
        tiles = -(-round(token) * self._preset.lanes // TILE_CHANNELS)
        cycles = max(token, tiles * self._delays.packer_tile)
        codes = tiles * self._planes * CODE_BYTES / self._preset.beat_bytes
        tokens = beats / token
        return Flow(tokens * cycles, Port.ENCODED, tokens * codes, cycles + delays.ENCODER)

    def _set(self, command: Command) -> None:
        """Settings that rates hang on; the compiler SENDs them."""
        if command.opcode != Opcode.SEND:
            return
        if command.port == Port.ENCODER_PLANES:
            self._planes = fields_of(command)["planes"]
        elif command.port == Port.NORM_COMMAND:
            self._norm_groups = -(-fields_of(command)["channels"] // self._preset.norm_lanes)
        elif command.port == Port.DEPTHWISE_MAP:
            self._map = fields_of(command)
        elif command.port == Port.ROUTE:
            route = fields_of(command)
            self.routes.pop(Port(route["source"]), None)
            if route["on"]:
                self.routes[Port(route["source"])] = route["beats"]

    def after(self, command: Command, payloads: int, first: float, end: float) -> None:
        """The first payload was taken at `first`, the last at `end`."""
        if command.port not in _VALUES:
            return
        if command.port == Port.ENCODER_VALUES:
            cycles = self._flow(command, payloads).cycles
            end = self._encoder = max(end, max(self._encoder, first) + cycles)
        drained = 0.0
        for flow in self._flows(command, payloads):
            drained += flow.drain
            if flow.port in UNIT_NAMES:
                self.busy[UNIT_NAMES[flow.port]] += flow.cycles
            if flow.port in self._idle:
                self._idle[flow.port] = end + drained
            if flow.port not in self.routes:
                self._writer.given(flow.port, flow.beats, end + drained)
            elif flow.port == Port.ENCODED:
                self._codes_taken(flow.beats, first + drained + delays.ROUTE, end + drained + delays.ROUTE)
            drained += delays.ROUTE
