"""What takes the payloads of a port, how fast, and what it gives back: the units but the array."""

from dataclasses import dataclass
from typing import Final

from sim.contract.constants import TILE_CHANNELS
from sim.cycles import delays
from sim.cycles.delays import Delays
from sim.cycles.writer import Writer
from sim.machine.commands import DIMENSIONS, Command, Opcode
from sim.machine.ports import Port
from sim.machine.presets import CODE_BYTES, MachinePreset
from sim.machine.records import sent_fields

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
    """gate: no payload is taken before. interval: cycles a payload. writes: beats of memory that the payloads cause
    while they are taken."""

    gate: float = 0.0
    interval: float = 1.0
    writes: float = 0.0


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
    """Encoder, LayerNorm, additions, activations, depthwise convolutions and copies.

    Every unit is a rate and a delay; `idle` is when the last result of a unit was on its way to memory.
    """

    def __init__(self, preset: MachinePreset, writer: Writer) -> None:
        self._preset, self._delays, self._writer = preset, Delays(preset), writer
        self._idle = dict.fromkeys(_WAITING.values(), 0.0)
        self._planes, self._norm_groups = 1, 1
        self._map = {"last_row": 0, "last_column": 0, "stride_two": 0}

    def before(self, command: Command, payloads: int) -> Taking:
        """How the payloads of a READ or SEND are taken."""
        port = command.port
        if port in _VALUES:
            return self._values(command, payloads)
        self._set(command)
        # Settings that are in use wait until the last result has left.
        return Taking(self._idle[_WAITING[port]] if port in _WAITING else 0.0)

    def _values(self, command: Command, payloads: int) -> Taking:
        port, writes = command.port, float(command.beats)
        interval = 1.0
        if port == Port.ENCODER_VALUES:
            beats = token_beats(command)
            interval = max(beats, self._tiles(beats) * self._delays.packer_tile) / beats
            writes = self._codes(command)
        elif port == Port.NORM_VALUES:
            interval = self._delays.norm_token(self._norm_groups) / self._norm_groups
        elif port == Port.RESIDUAL_VALUES:
            writes /= 2
        elif port == Port.DEPTHWISE_VALUES:
            rows, columns = self._map["last_row"] + 1, self._map["last_column"] + 1
            interval += (columns + 2) / (rows * columns)
            writes = self._pixels(payloads)
        return Taking(0.0, interval, writes)

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

    def after(self, command: Command, payloads: int, end: float) -> None:
        """The last payload was taken at `end`."""
        port = command.port
        if port == Port.ENCODER_VALUES:
            beats = token_beats(command)
            drain = max(beats, self._tiles(beats) * self._delays.packer_tile) + delays.ENCODER
            self._give(Port.ENCODED, self._codes(command), end + drain)
        elif port == Port.NORM_VALUES:
            groups = self._norm_groups
            drain = self._delays.norm_turnaround + groups + delays.NORM_PIPELINE
            self._give(Port.NORMED, command.beats, end + drain)
        elif port == Port.RESIDUAL_VALUES:
            self._give(Port.SUMS, command.beats / 2, end + delays.RESIDUAL)
        elif port == Port.ACTIVATION_VALUES:
            self._give(Port.ACTIVATED, command.beats, end + delays.ACTIVATION)
        elif port == Port.COPY:
            self._give(Port.COPIED, command.beats, end)
        elif port == Port.DEPTHWISE_VALUES:
            columns = self._map["last_column"] + 1
            self._give(Port.CONVOLVED, self._pixels(payloads), end + columns + 2 + delays.DEPTHWISE)

    def _give(self, port: Port, beats: float, end: float) -> None:
        self._idle[port] = end
        self._writer.given(port, beats, end)

    def _tiles(self, beats: int) -> int:
        return -(-beats * self._preset.lanes // TILE_CHANNELS)

    def _codes(self, command: Command) -> float:
        beats = token_beats(command)
        tokens = command.beats / beats
        return tokens * self._tiles(beats) * self._planes * CODE_BYTES / self._preset.beat_bytes

    def _pixels(self, payloads: int) -> float:
        rows, columns = self._map["last_row"] + 1, self._map["last_column"] + 1
        kept = -(-rows // 2) * -(-columns // 2) if self._map["stride_two"] else rows * columns
        return payloads * kept / (rows * columns)
