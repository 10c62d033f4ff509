"""The depthwise unit: maps in passes of `lanes` channels."""

from collections import deque
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sim.contract.depthwise import Depthwise
from sim.contract.wide import Wide
from sim.executor.payloads import wide, wide_bytes
from sim.executor.unit import Batch, Output, StallError, check
from sim.machine.ports import Port
from sim.machine.presets import MachinePreset
from sim.machine.records import unpack_records
from sim.machine.settings import MAP_COLUMNS_MIN, MAP_ROWS_MAX, TAPS

PASSES_AHEAD: Final = 2
"""Passes whose channels may have come: the one that runs and the next."""


class DepthwiseUnit:
    """hdl.vector.depthwise: a map's setting, then for each pass `lanes` channels and the pixels of the map."""

    inputs: Final = frozenset({Port.DEPTHWISE_MAP, Port.DEPTHWISE_CHANNEL, Port.DEPTHWISE_VALUES})

    def __init__(self, preset: MachinePreset) -> None:
        self._lanes = preset.lanes
        self._columns_max = preset.map_columns
        self._map: dict[str, int] | None = None
        self._channels: deque[dict[str, NDArray[np.int64]]] = deque()
        self._begun = np.zeros((0, preset.lanes), np.int16)

    def take(self, batch: Batch) -> list[Output]:
        """A map, channels, or pixels."""
        if batch.port == Port.DEPTHWISE_VALUES:
            return self._values(batch)
        fields = unpack_records(batch.port, batch.data)
        if batch.port == Port.DEPTHWISE_CHANNEL:
            check(self._map is not None, "DEPTHWISE_CHANNEL comes before DEPTHWISE_MAP")
            for row in range(len(batch.data)):
                self._channels.append({name: value[row] for name, value in fields.items()})
            if len(self._channels) > PASSES_AHEAD * self._lanes:
                raise StallError(f"channels of more than {PASSES_AHEAD} passes come before the pixels of the first")
            return []
        if len(self._channels) >= self._lanes:
            raise StallError("DEPTHWISE_MAP comes while a pass waits for its pixels")
        setting = {name: int(value[-1]) for name, value in fields.items()}
        rows, columns = setting["last_row"] + 1, setting["last_column"] + 1
        check(rows <= MAP_ROWS_MAX, f"a map of {rows} rows, {MAP_ROWS_MAX} are possible")
        check(
            MAP_COLUMNS_MIN <= columns <= self._columns_max,
            f"{columns} columns, {MAP_COLUMNS_MIN}..{self._columns_max} fit",
        )
        check(setting["stride_two"] <= 1, "stride_two is 0 or 1")
        self._map = setting
        return []

    def left(self) -> str:
        """Pixels of a pass that is not complete, or channels without pixels."""
        if len(self._begun):
            return f"{len(self._begun)} pixels of a pass that is not complete"
        return f"{len(self._channels)} depthwise channels without pixels" if self._channels else ""

    def _values(self, batch: Batch) -> list[Output]:
        values = np.concatenate([self._begun, wide(batch.data)])
        results: list[Output] = []
        while len(values):
            if self._map is None or len(self._channels) < self._lanes:
                raise StallError(f"DEPTHWISE_VALUES come, but {len(self._channels)} channels have: no pass takes them")
            rows, columns = self._map["last_row"] + 1, self._map["last_column"] + 1
            if len(values) < rows * columns:
                break
            pixels = values[: rows * columns].reshape(rows, columns, self._lanes)
            values = values[rows * columns :]
            results.append((Port.CONVOLVED, wide_bytes(self._pass().run(Wide(pixels, 0)).values)))
        self._begun = values
        return results

    def _pass(self) -> Depthwise:
        assert self._map is not None
        channels = [self._channels.popleft() for _ in range(self._lanes)]
        weight = np.array([[channel[f"weight{tap}"] for tap in range(TAPS)] for channel in channels], np.int8)
        return Depthwise(
            name="DEPTHWISE_CHANNEL",
            input_exponent=0,
            wide_exponent=0,
            stride=1 + self._map["stride_two"],
            weight=weight.reshape(-1, 3, 3),
            multiplier=np.array([channel["multiplier"] for channel in channels], np.uint16),
            bias=np.array([channel["bias"] for channel in channels], np.int64),
            shift=self._map["shift"],
        )
