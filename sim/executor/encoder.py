"""The encoder unit: wide values to codes, packed as the array reads them."""

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sim.contract.constants import TILE_CHANNELS
from sim.contract.encoder import ENCODER_INDICES, half_steps
from sim.executor.payloads import wide
from sim.executor.unit import Batch, Output, StallError, check
from sim.machine.ports import Port
from sim.machine.presets import MachinePreset
from sim.machine.records import unpack_records
from sim.machine.settings import TOKEN_BEATS_MAX

VALUES_PER_CHUNK: Final = 1 << 17
"""Values handled at once: what fits the cache; changes no bit."""


def pack(codes: NDArray[np.uint8], planes: int) -> NDArray[np.uint8]:
    """Codes uint8 (tokens, positions) as ENCODED gives them, uint8 (bytes,): see docs/machine.md, packed codes."""
    tokens, positions = codes.shape
    tiles = -(-positions // TILE_CHANNELS)
    padded = np.zeros((tokens, tiles * TILE_CHANNELS), np.uint8)
    padded[:, :positions] = codes
    low, high = padded[:, 0::2], padded[:, 1::2]
    packed = np.empty((tokens, tiles, planes, TILE_CHANNELS // 2), np.uint8)
    shape = (tokens, tiles, TILE_CHANNELS // 2)
    packed[:, :, planes - 1] = (low & 15 | high << 4).reshape(shape)
    if planes == 2:
        packed[:, :, 0] = (low >> 4 | high & 0xF0).reshape(shape)
    return packed.reshape(-1)


class EncoderUnit:
    """The order in front of hdl.vector.encoder, its tables, and the packing behind it.

    Multipliers, addends, shifts and codes that were never written are zero.
    """

    inputs: Final = frozenset(
        {
            Port.ENCODER_ORDER,
            Port.ENCODER_CHANNEL,
            Port.ENCODER_TILE,
            Port.ENCODER_TABLE,
            Port.ENCODER_PLANES,
            Port.ENCODER_VALUES,
        }
    )

    def __init__(self, preset: MachinePreset) -> None:
        positions = TOKEN_BEATS_MAX * preset.lanes
        self._lanes = preset.lanes
        self._order = np.full(positions, positions)
        self._bank = np.zeros(positions, np.int64)
        self._multiplier = np.zeros(positions, np.int32)
        self._addend = np.zeros(positions, np.int32)
        self._shift = np.zeros(-(-positions // TILE_CHANNELS), np.int32)
        self._table_of = np.zeros_like(self._shift)
        self._codes = np.zeros(preset.tables * ENCODER_INDICES, np.uint8)
        self._planes = 0
        self._begun = np.zeros((0, preset.lanes), np.int16)

    def take(self, batch: Batch) -> list[Output]:
        """Tables, or values of tokens, which may begin in one batch and end in another."""
        if batch.port == Port.ENCODER_VALUES:
            return [(Port.ENCODED, pack(codes, self._planes)) for codes in self._encoded(batch)]
        fields = unpack_records(batch.port, batch.data)
        check(not len(self._begun), f"{batch.port.name} comes in the middle of a token")
        if batch.port == Port.ENCODER_ORDER:
            position = fields["position"]
            check(position.max() < self._order.size, f"there is no position {position.max()}")
            self._order[position] = fields["channel"]
            self._bank[position] = fields["bank"]
        elif batch.port == Port.ENCODER_CHANNEL:
            position = fields["position"]
            check(position.max() < self._multiplier.size, f"there is no position {position.max()}")
            check((np.abs(fields["addend"]) < 1 << 30).all(), "an addend has more than 31 bits")
            self._multiplier[position] = fields["multiplier"]
            self._addend[position] = fields["addend"]
        elif batch.port == Port.ENCODER_TILE:
            tile = fields["tile"]
            check(tile.max() < self._shift.size, f"there is no tile {tile.max()}")
            check(fields["shift"].max() <= 30, f"a shift of {fields['shift'].max()} exceeds 30")
            check((fields["table"] * ENCODER_INDICES).max() < self._codes.size, f"no table {fields['table'].max()}")
            self._shift[tile] = fields["shift"]
            self._table_of[tile] = fields["table"]
        elif batch.port == Port.ENCODER_TABLE:
            check(fields["address"].max() < self._codes.size, f"tables have no entry {fields['address'].max()}")
            self._codes[fields["address"]] = fields["code"]
        else:
            self._planes = int(fields["planes"][-1])
            check(self._planes in (1, 2), f"codes have 1 or 2 planes, not {self._planes}")
        return []

    def left(self) -> str:
        """Beats of a token without its last."""
        return f"{len(self._begun)} beats of a token without an end" if len(self._begun) else ""

    def _encoded(self, batch: Batch) -> Iterator[NDArray[np.uint8]]:
        """Codes (tokens, positions) of the tokens that end in this batch."""
        check(self._planes > 0, "ENCODER_VALUES comes before ENCODER_PLANES")
        values = wide(batch.data)
        if not batch.token:
            self._begin(values)
            return
        ends = len(values) // batch.token
        whole = values[: ends * batch.token]
        if len(self._begun) and ends:
            first = np.concatenate([self._begun, whole[: batch.token]])
            self._begun = values[:0]
            whole = whole[batch.token :]
            yield self._codes_of(first.reshape(1, -1))
        positions = batch.token * self._lanes
        tokens = whole.reshape(-1, positions)
        chunk = max(1, VALUES_PER_CHUNK // positions)
        for start in range(0, len(tokens), chunk):
            yield self._codes_of(tokens[start : start + chunk])
        self._begin(values[ends * batch.token :])

    def _begin(self, values: NDArray[np.int16]) -> None:
        self._begun = np.concatenate([self._begun, values])
        if len(self._begun) > TOKEN_BEATS_MAX:
            raise StallError(
                f"a token has more than {TOKEN_BEATS_MAX} beats without `last`; give token_dims to the READ"
            )

    def _codes_of(self, values: NDArray[np.int16]) -> NDArray[np.uint8]:
        positions = values.shape[1]
        check(positions <= self._multiplier.size, f"a token of {positions} positions is longer than the tables")
        order = self._order[:positions]
        check(order.max() < positions, f"ENCODER_ORDER gives a token of {positions} values no channel at some position")
        self._check_banks(order)
        if not np.array_equal(order, np.arange(positions)):
            values = values[:, order]
        tile = np.arange(positions) // TILE_CHANNELS
        index = half_steps(values, self._multiplier[:positions], self._addend[:positions], self._shift[tile])
        index += self._table_of[tile] * ENCODER_INDICES
        return self._codes[index]

    def _check_banks(self, order: NDArray[np.int64]) -> None:
        """Beats that come and beats that leave have a value in each bank (sim.machine.banks)."""
        beat, bank = np.arange(order.size) // self._lanes, self._bank[: order.size]
        for of_beat in (beat, order // self._lanes):
            found = np.bincount(of_beat * self._lanes + bank, minlength=order.size)
            check((found == 1).all(), f"ENCODER_ORDER gives a beat of a token of {order.size} values a bank twice")
