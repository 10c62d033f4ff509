"""Wide values to packed codes in memory: what the encoder unit is told, and where its codes lie."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sim.compiler.builder import Builder
from sim.contract.constants import CODES, TILE_CHANNELS
from sim.contract.encoder import LEVEL_ZERO, Encoder, half_step_table
from sim.contract.errors import UserError
from sim.contract.layer import weight_nibbles
from sim.machine.banks import banks_of
from sim.machine.ports import Port
from sim.machine.presets import CODE_BYTES, MachinePreset
from sim.machine.settings import TOKEN_BEATS_MAX

HALF_TILE = TILE_CHANNELS // 2
"""Positions whose nibbles fill a beat of 16 bytes: what a READ can tell apart."""


@dataclass(frozen=True)
class Codes:
    """Packed codes in memory. pitch: bytes from a token to the next. planes: nibbles of a code."""

    address: int
    pitch: int
    planes: int

    def plane(self, tile: int, plane: int) -> int:
        """Bytes from a token's first to a plane of a K tile."""
        return (tile * self.planes + plane) * CODE_BYTES


@dataclass(frozen=True)
class CodePlan:
    """An encoder as the unit takes it, by position: order (channel of a token), multiplier, addend; by tile: shift and
    table of 512 codes. planes: nibbles of a code."""

    name: str
    order: NDArray[np.int64]
    multiplier: NDArray[np.int64]
    addend: NDArray[np.int64]
    shift: NDArray[np.int64]
    tables: tuple[bytes, ...]
    planes: int

    @property
    def pitch(self) -> int:
        """Bytes of the codes of a token."""
        return len(self.tables) * self.planes * CODE_BYTES


def streamed_codes(levels: NDArray[np.int8]) -> bytes:
    """Code of each half step as the array streams it: rank among sixteen levels, or level + 128."""
    return half_step_table(levels).tobytes()


def stationary_codes(levels: NDArray[np.int8], planes: int) -> bytes:
    """Signed nibbles of the level of each half step, as weights have them: the high one in the upper half of a byte."""
    codes = half_step_table(levels)
    level = levels[codes] if levels.size == CODES else (codes.astype(np.int16) - LEVEL_ZERO).astype(np.int8)
    nibbles = [nibble & 15 for nibble in weight_nibbles(level, planes)]
    return (nibbles[-1] | (nibbles[0] << 4 if planes == 2 else 0)).astype(np.uint8).tobytes()


def plan_codes(encoder: Encoder, lanes: int) -> CodePlan:
    """Codes in the encoder's own order, tokens padded to whole beats by positions that mean nothing."""
    channels = encoder.channels
    positions, limit = -(-channels // lanes) * lanes, TOKEN_BEATS_MAX * lanes
    if positions > limit:
        raise UserError(f"{encoder.name} has {channels} channels, the encoder takes up to {limit}")
    order = np.arange(positions)
    order[:channels] = encoder.permutation
    multiplier, addend = np.zeros((2, positions), np.int64)
    multiplier[:channels], addend[:channels] = encoder.multiplier, encoder.addend
    tables = tuple(streamed_codes(encoder.tile_levels(tile)) for tile in range(encoder.tiles))
    return CodePlan(
        encoder.name, order, multiplier, addend, encoder.shift.astype(np.int64), tables, encoder.code_planes
    )


def plan_operand(encoder: Encoder, planes: int, unit: int, present: int, lanes: int) -> CodePlan:
    """Stationary nibbles of HALF_TILE / unit tokens at a time, so that a beat holds `unit` channels of each of them.

    Position p of half a tile holds channel p mod unit of token p div unit; half tiles go on through the channels. Only
    the first `present` of the tokens are there; the others become level 0. Raises UserError when channels or levels do
    not allow that.
    """
    group, channels = HALF_TILE // unit, encoder.channels
    positions, limit = group * channels, TOKEN_BEATS_MAX * lanes
    if channels % HALF_TILE or positions > limit:
        raise UserError(
            f"{encoder.name} has {channels} channels; the compiler takes multiples of {HALF_TILE} up to "
            f"{limit // group}"
        )
    position = np.arange(positions)
    token = position % HALF_TILE // unit
    channel = position // HALF_TILE * unit + position % unit
    tile_of = position[::TILE_CHANNELS] // group // TILE_CHANNELS
    tables = tuple(stationary_codes(encoder.tile_levels(int(tile)), planes) for tile in tile_of)
    shift = encoder.shift.astype(np.int64)[tile_of]
    multiplier, addend = encoder.multiplier.astype(np.int64)[channel], encoder.addend.astype(np.int64)[channel]
    absent = token >= present
    multiplier[absent] = 0
    for tile in range(len(tables)):
        places = slice(tile * TILE_CHANNELS, (tile + 1) * TILE_CHANNELS)
        if absent[places].any():
            index = tables[tile].find(0)
            if index < 0 or index << int(shift[tile]) >= 1 << 30:
                raise UserError(f"{encoder.name}: no code stands for level 0, which missing keys need; export it again")
            addend[places][absent[places]] = index << int(shift[tile])
    return CodePlan(encoder.name, token * channels + channel, multiplier, addend, shift, tables, planes)


@dataclass(frozen=True)
class Values:
    """Wide values on their way to the encoder. addresses: int64 (tokens, beats). normed: they pass LayerNorm first,
    whose command has been given and whose results are routed to the encoder."""

    addresses: NDArray[np.int64]
    normed: bool = False

    @property
    def count(self) -> int:
        """Tokens."""
        return len(self.addresses)

    def cycles(self, preset: MachinePreset) -> int:
        """Of the reader for a token: LayerNorm takes norm_lanes values a cycle."""
        return self.addresses.shape[1] * (preset.lanes // min(preset.lanes, preset.norm_lanes) if self.normed else 1)

    def part(self, start: int, stop: int) -> "Values":
        """Tokens start..stop."""
        return replace(self, addresses=self.addresses[start:stop])

    def read(self, builder: Builder, start: int, stop: int) -> None:
        """READ tokens start..stop."""
        if self.normed:
            builder.read(Port.NORM_VALUES, self.addresses[start:stop])
        else:
            builder.read_tokens(Port.ENCODER_VALUES, self.addresses[start:stop])


@dataclass(frozen=True)
class CodedValues(Values):
    """The same when they have been codes for long, in memory: on their way to the array. addresses: of their beats."""

    @classmethod
    def of_codes(cls, codes: Codes, tokens: int, beat: int) -> "CodedValues":
        """The first tokens of some."""
        beats = np.arange(codes.pitch // beat) * beat
        return cls(codes.address + np.arange(tokens)[:, None] * codes.pitch + beats)

    def read(self, builder: Builder, start: int, stop: int) -> None:
        """READ tokens start..stop."""
        builder.read(Port.CODES, self.addresses[start:stop])


def prepare_encoder(builder: Builder, plan: CodePlan) -> None:
    """Give the encoder its tables. What it encoded before is in memory."""
    slots = builder.encoder_tables(plan.tables, plan.name)
    builder.table(
        Port.ENCODER_ORDER,
        {
            "position": np.arange(plan.order.size),
            "channel": plan.order,
            "bank": banks_of(plan.order, builder.preset.lanes),
        },
    )
    builder.table(
        Port.ENCODER_CHANNEL,
        {"position": np.arange(plan.order.size), "multiplier": plan.multiplier, "addend": plan.addend},
    )
    builder.table(Port.ENCODER_TILE, {"tile": np.arange(len(slots)), "shift": plan.shift, "table": np.array(slots)})
    builder.send(Port.ENCODER_PLANES, planes=plan.planes)


def write_codes(builder: Builder, plan: CodePlan, values: Values, address: int, *loops: tuple[int, int]) -> None:
    """Codes of tokens to memory, written in these loops (Builder.write_loops), one after the other where none are
    given; the encoder has its tables."""
    if loops:
        builder.write_loops(Port.ENCODED, address, *loops)
    else:
        builder.write_block(Port.ENCODED, address, values.count * plan.pitch)
    values.read(builder, 0, values.count)


def encode(builder: Builder, plan: CodePlan, values: NDArray[np.int64], address: int, *loops: tuple[int, int]) -> None:
    """Codes to memory of the tokens whose beats are at addresses (tokens, beats), as `write_codes`, tables first."""
    prepare_encoder(builder, plan)
    write_codes(builder, plan, Values(values), address, *loops)
