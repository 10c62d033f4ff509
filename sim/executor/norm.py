"""The LayerNorm unit."""

from typing import Final

import numpy as np

from sim.contract.layer_norm import LayerNorm
from sim.executor.payloads import wide, wide_bytes
from sim.executor.unit import Batch, Output, StallError, check
from sim.machine.ports import Port
from sim.machine.presets import MachinePreset
from sim.machine.records import unpack_records


class NormUnit:
    """hdl.layer_norm: a command, then its tokens, each of whole payloads; surplus lanes of its last one leave as 0."""

    inputs: Final = frozenset({Port.NORM_COMMAND, Port.NORM_PARAMETER, Port.NORM_VALUES})

    def __init__(self, preset: MachinePreset) -> None:
        self._lanes = preset.norm_lanes
        self._gain = np.zeros(preset.norm_channels, np.int16)
        self._bias = np.zeros(preset.norm_channels, np.int32)
        self._layer: LayerNorm | None = None
        self._tokens = 0
        self._begun = np.zeros((0, self._lanes), np.int16)

    def take(self, batch: Batch) -> list[Output]:
        """A command, parameters between commands, or values of its tokens."""
        if batch.port == Port.NORM_VALUES:
            return self._values(batch)
        if self._tokens:
            raise StallError(f"{batch.port.name} comes while {self._tokens} tokens of a NORM_COMMAND are missing")
        fields = unpack_records(batch.port, batch.data)
        if batch.port == Port.NORM_PARAMETER:
            position, size = fields["position"], self._gain.size
            check(position.max() < size, f"LayerNorm has no position {position.max()}")
            self._gain[position] = fields["gain"]
            self._bias[position] = fields["bias"]
            return []
        if len(batch.data) > 1:
            raise StallError("a NORM_COMMAND comes right behind another one, before its tokens")
        tokens, channels, shift, epsilon = (int(fields[name][0]) for name in ("tokens", "channels", "shift", "epsilon"))
        check(1 <= channels <= self._gain.size, f"LayerNorm of {channels} channels, 1..{self._gain.size} are possible")
        self._layer = LayerNorm("NORM_COMMAND", 0, 0, epsilon, self._gain[:channels], self._bias[:channels], shift)
        self._tokens = tokens
        return []

    def left(self) -> str:
        """Tokens that a command still waits for."""
        return f"a NORM_COMMAND still waits for {self._tokens} tokens" if self._tokens else ""

    def _values(self, batch: Batch) -> list[Output]:
        values = np.concatenate([self._begun, wide(batch.data)])
        if self._layer is None or not self._tokens:
            raise StallError("NORM_VALUES come, but no NORM_COMMAND takes them")
        channels = self._layer.gain.size
        groups = -(-channels // self._lanes)
        whole = len(values) // groups
        if whole > self._tokens or (whole == self._tokens and len(values) % groups):
            raise StallError(f"NORM_VALUES hold more than the {self._tokens} tokens that the NORM_COMMAND lacks")
        self._begun = values[whole * groups :]
        self._tokens -= whole
        tokens = values[: whole * groups].reshape(whole, -1)[:, :channels]
        results = np.zeros((whole, groups * self._lanes), np.int16)
        results[:, :channels] = self._layer.affine(self._layer.normalise(tokens))
        return [(Port.NORMED, wide_bytes(results))]
