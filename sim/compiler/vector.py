"""LayerNorm, additions, activations and depthwise convolutions: operands streamed past a unit."""

import numpy as np
from numpy.typing import NDArray

from sim.compiler.builder import Builder
from sim.compiler.loops import Nest, nest_beats
from sim.compiler.region import Region
from sim.contract.activation_table import TABLE_ENTRIES, ActivationTable
from sim.contract.depthwise import Depthwise
from sim.contract.errors import UserError
from sim.contract.layer_norm import LayerNorm
from sim.contract.residual import Residual
from sim.machine.commands import DIMENSIONS, Opcode
from sim.machine.ports import Port
from sim.machine.settings import DISTANCE_MAX, MAP_COLUMNS_MIN, TAPS

TOKENS_MAX = (1 << 16) - 1
"""Tokens of one command of LayerNorm."""


def write_tokens(builder: Builder, port: Port, out: Region, tokens: NDArray[np.int64]) -> None:
    """WRITE these whole tokens of a region."""
    builder.write(port, out.of_tokens(tokens))


def begin_norm(builder: Builder, norm: LayerNorm, tokens: int) -> None:
    """Give LayerNorm its parameters and the command for so many tokens.

    Raises UserError when the unit cannot hold its channels.
    """
    channels, preset = norm.gain.size, builder.preset
    if channels > preset.norm_channels or channels % preset.lanes:
        raise UserError(
            f"{norm.name} has {channels} channels; preset {preset.name} takes multiples of {preset.lanes} up to "
            f"{preset.norm_channels}"
        )
    builder.table(Port.NORM_PARAMETER, {"position": np.arange(channels), "gain": norm.gain, "bias": norm.bias})
    builder.send(Port.NORM_COMMAND, tokens=tokens, channels=channels, shift=norm.shift, epsilon=norm.epsilon)


def lower_norm(
    builder: Builder, norm: LayerNorm, values: NDArray[np.int64], out: Region, tokens: NDArray[np.int64]
) -> None:
    """LayerNorm of the tokens whose beats are at addresses (tokens, beats)."""
    for begin in range(0, len(values), TOKENS_MAX):
        part = values[begin : begin + TOKENS_MAX]
        begin_norm(builder, norm, len(part))
        write_tokens(builder, Port.NORMED, out, tokens[begin : begin + TOKENS_MAX])
        builder.read(Port.NORM_VALUES, part)
    builder.wait()


def lower_residual(
    builder: Builder,
    residual: Residual,
    operands: tuple[NDArray[np.int64], NDArray[np.int64]],
    out: Region,
    tokens: NDArray[np.int64],
    *,
    port: Port = Port.SUMS,
) -> None:
    """The sum of two operands whose beats are at addresses (tokens, beats). port: SUMS, or the output at the end of its
    route."""
    builder.send(
        Port.RESIDUAL_SETTING,
        first=residual.first_exponent - residual.wide_exponent + DISTANCE_MAX,
        second=residual.second_exponent - residual.wide_exponent + DISTANCE_MAX,
    )
    write_tokens(builder, port, out, tokens)
    first, second = (nest_beats(operand.reshape(-1), builder.beat, DIMENSIONS - 2) for operand in operands)
    if [nest.loops for nest in first] == [nest.loops for nest in second]:
        nests = [
            Nest(one.start, ((1, builder.beat), (2, other.start - one.start), *one.loops))
            for one, other in zip(first, second, strict=True)
        ]
        builder.nests(Opcode.READ, Port.RESIDUAL_VALUES, [(nest, 0) for nest in nests])
    else:
        builder.read(Port.RESIDUAL_VALUES, np.stack(operands, axis=-1))
    builder.wait()


def set_activation(builder: Builder, activation: ActivationTable) -> None:
    """Give the unit of activations its table and setting."""
    builder.table(Port.ACTIVATION_TABLE, {"address": np.arange(TABLE_ENTRIES), "sample": activation.table})
    builder.send(Port.ACTIVATION_SETTING, segment_bits=activation.segment_bits)


def lower_activation(
    builder: Builder, activation: ActivationTable, values: NDArray[np.int64], out: Region, tokens: NDArray[np.int64]
) -> None:
    """A function of every value of the tokens whose beats are at addresses (tokens, beats)."""
    set_activation(builder, activation)
    write_tokens(builder, Port.ACTIVATED, out, tokens)
    builder.read(Port.ACTIVATION_VALUES, values)
    builder.wait()


def begin_depthwise(builder: Builder, depthwise: Depthwise, rows: int, columns: int) -> list[int]:
    """Give the unit the size of a map. Returns addresses of the records of each `lanes` channels.

    Raises UserError when the map is too wide for the unit, or too narrow.
    """
    preset = builder.preset
    if columns > preset.map_columns or columns < MAP_COLUMNS_MIN:
        raise UserError(
            f"{depthwise.name} is {columns} columns wide; preset {preset.name} takes "
            f"{MAP_COLUMNS_MIN}..{preset.map_columns}"
        )
    channels = depthwise.multiplier.size
    spare = -channels % preset.lanes
    weight = np.pad(depthwise.weight.reshape(channels, TAPS), ((0, spare), (0, 0)))
    fields = {f"weight{tap}": weight[:, tap] for tap in range(TAPS)}
    fields |= {"multiplier": np.pad(depthwise.multiplier, (0, spare)), "bias": np.pad(depthwise.bias, (0, spare))}
    records = builder.records(Port.DEPTHWISE_CHANNEL, fields)
    groups = (channels + spare) // preset.lanes
    address = builder.constant(records)
    builder.send(
        Port.DEPTHWISE_MAP,
        last_row=rows - 1,
        last_column=columns - 1,
        stride_two=depthwise.stride - 1,
        shift=depthwise.shift,
    )
    return [address + group * (len(records) // groups) for group in range(groups)]


def lower_depthwise(
    builder: Builder,
    depthwise: Depthwise,
    source: Region,
    out: Region,
    *,
    columns: int,
    rows: tuple[int, int],
    wanted: tuple[int, int],
    port: Port = Port.CONVOLVED,
) -> None:
    """Rows wanted[0]..wanted[1] of the result from rows rows[0]..rows[1] of a map of `columns` columns.

    port: CONVOLVED, or the output at the end of its route. What the unit gives beyond the rows that are wanted, at the
    edges of a part of a map, is written where nobody reads.
    """
    beat, stride = builder.beat, depthwise.stride
    count = rows[1] - rows[0]
    records = begin_depthwise(builder, depthwise, count, columns)
    width = -(-columns // stride)
    given = (rows[0] // stride, rows[0] // stride + -(-count // stride))
    junk = builder.memory.take(beat)
    for group, channels in enumerate(records):
        for first, last, kept in (
            (given[0], wanted[0], False),
            (wanted[0], wanted[1], True),
            (wanted[1], given[1], False),
        ):
            if first < last and kept:
                place = out.address + (first * width - out.first) * out.pitch + group * beat
                builder.write_loops(port, place, (1, beat), (width, out.pitch), (last - first, width * out.pitch))
            elif first < last:
                builder.write_loops(port, junk, (1, beat), (width * (last - first), 0))
        builder.read_block(Port.DEPTHWISE_CHANNEL, channels, builder.preset.lanes)
        place = source.address + (rows[0] * columns - source.first) * source.pitch + group * beat
        builder.read_loops(
            Port.DEPTHWISE_VALUES, place, (1, beat), (columns, source.pitch), (count, columns * source.pitch)
        )
    builder.memory.free(junk)
    builder.wait()
