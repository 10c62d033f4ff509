"""The image encoder of a model as a program of the machine."""

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sim.compiler.attention import AttentionLowering
from sim.compiler.builder import Builder
from sim.compiler.dense import Results, lower_dense, results_pitch
from sim.compiler.encode import Values
from sim.compiler.region import Region
from sim.compiler.rounds import roll
from sim.compiler.stripes import Rows, chains, input_rows, rows_of
from sim.compiler.trace import PICTURE, Node, View, trace
from sim.compiler.vector import lower_activation, lower_depthwise, lower_norm, lower_residual
from sim.contract.activation_table import ActivationTable
from sim.contract.attention import Attention
from sim.contract.depthwise import Depthwise
from sim.contract.errors import UserError
from sim.contract.layer import QuantizedLayer
from sim.contract.layer_norm import LayerNorm
from sim.contract.residual import Residual
from sim.golden.architecture import Architecture
from sim.golden.parameters import Parameters
from sim.machine.commands import COMMAND_BYTES, Command, Opcode
from sim.machine.presets import MachinePreset

STRIPED_SHARE = 8
"""A chain with a result larger than this fraction of memory is computed in stripes, which may take the same."""


@dataclass(frozen=True)
class Placed:
    """A tensor in memory: its tokens of `shape`, `pitch` bytes apart from `address` on; dense: values side by side."""

    address: int
    pitch: int
    shape: tuple[int, ...]
    exponent: int
    dense: bool = False


@dataclass(frozen=True)
class Layer:
    """One step of the program.

    names: the operations that it runs; several where results in between are never in memory as a whole. commands:
    addresses of the first and behind the last. result: of the last operation, right after the step.
    """

    names: tuple[str, ...]
    kind: str
    commands: tuple[int, int]
    result: Placed


@dataclass(frozen=True)
class Program:
    """Image, commands as they stand in it, first writable address, where the host puts the picture and finds the
    embedding, and the steps."""

    preset: MachinePreset
    image: bytes
    commands: list[Command]
    writable: int
    needed_bytes: int
    picture: Placed
    embedding: Placed
    layers: list[Layer]


@dataclass
class _Step:
    names: tuple[str, ...]
    kind: str
    commands: tuple[int, int]
    result: Region
    shape: tuple[int, ...]
    exponent: int


class Compiler:
    """Lowers the operations of a trace one after another; tensors are given back after their last reader."""

    def __init__(self, preset: MachinePreset, nodes: list[Node], embedding: View) -> None:
        self.builder = Builder(preset)
        self._nodes = {node.number: node for node in nodes}
        self._regions: dict[int, Region] = {}
        self._readers = Counter(view.source for node in nodes for view in node.inputs)
        self._readers[embedding.source] += 1
        self._unread = Counter(self._readers)
        self.steps: list[_Step] = []

    def place_picture(self, shape: tuple[int, ...], nodes: list[Node]) -> Region:
        """Room for the picture: values side by side where an operation reads it so, else every pixel from a beat on."""
        beat, lanes = self.builder.beat, self.builder.preset.lanes
        reads = [view for node in nodes for view in node.inputs if view.source == PICTURE]
        tokens, channels = int(np.prod(shape[:-1])), shape[-1]
        dense = any(view.dense for view in reads)
        if dense and not all(view.dense for view in reads):
            raise UserError("the picture is read both by pixels and by rows; the compiler places it in one way")
        beats = -(-channels // lanes)
        pitch = channels * 2 if dense else beats * beat
        size = -(-tokens * pitch // beat) * beat
        region = Region(self.builder.memory.take(size), pitch, beats, beat, self.builder.zeros, dense=dense)
        self._regions[PICTURE] = region
        return region

    def _region(self, tokens: int, channels: int, dense_results: bool, first: int = 0) -> Region:
        builder = self.builder
        beats = -(-channels // builder.preset.lanes)
        pitch = results_pitch(channels, builder.preset) if dense_results else beats * builder.beat
        address = builder.memory.take(tokens * pitch)
        return Region(address, pitch, beats, builder.beat, builder.zeros, first)

    def lower(self, nodes: list[Node]) -> None:
        """All operations."""
        for chain in chains(nodes, self._readers, self.builder.preset.lanes):
            largest = max((node.tokens * node.channels * 2 for node in chain[:-1]), default=0)
            if largest > self.builder.preset.memory_bytes // STRIPED_SHARE:
                self._striped(chain)
            else:
                for node in chain:
                    self._whole(node)

    def _whole(self, node: Node) -> None:
        self.builder.begin_layer()
        begin = len(self.builder.commands)
        region = self._result_region(node)
        try:
            self._lower(node, Rows(0, rows_of(node.shape)), region, self._regions)
        except ValueError as error:
            raise UserError(f"{node.name} does not fit a command of the machine ({error})") from error
        self._finish([node], region, begin)

    def _finish(self, chain: list[Node], region: Region, begin: int) -> None:
        node = chain[-1]
        self.builder.commands[begin:] = roll(self.builder.commands[begin:], begin)
        self._regions[node.number] = region
        span = begin * COMMAND_BYTES, len(self.builder.commands) * COMMAND_BYTES
        names = tuple(one.name for one in chain)
        kind = type(node.operation).__name__ if len(chain) == 1 else "chain"
        exponent = node.operation.wide_exponent
        self.steps.append(_Step(names, kind, span, region, node.shape, exponent))
        for view in chain[0].inputs:
            self._unread[view.source] -= 1
            if not self._unread[view.source]:
                old = self._regions.pop(view.source)
                if old.address != region.address:
                    self.builder.memory.free(old.address)

    def _result_region(self, node: Node) -> Region:
        """Room for a result: that of an operand which nobody reads any more, for operations on single values."""
        if isinstance(node.operation, ActivationTable | Residual):
            for view in node.inputs:
                whole = view.source != PICTURE and view.beats is None
                if whole and self._unread[view.source] == 1 and view.channels == node.channels:
                    return self._regions[view.source]
        return self._region(node.tokens, node.channels, isinstance(node.operation, QuantizedLayer))

    def _lower(self, node: Node, rows: Rows, out: Region, regions: dict[int, Region]) -> None:
        """Rows of an operation's result, its inputs being in `regions`."""
        builder, operation = self.builder, node.operation
        per_row = node.tokens // rows_of(node.shape)
        start, stop = rows.start * per_row, rows.stop * per_row
        if isinstance(operation, Depthwise):
            view = node.inputs[0]
            if view.beats is not None:
                raise UserError(f"{node.name} convolves a map that lies in pieces; the compiler takes whole maps")
            height, columns, _ = view.shape
            needed = input_rows(node, rows, height)
            lower_depthwise(
                builder,
                operation,
                regions[view.source],
                out,
                columns=columns,
                rows=(needed.start, needed.stop),
                wanted=(rows.start, rows.stop),
            )
            return
        if isinstance(operation, Attention):
            q, k, v = (regions[view.source].of_view(view, start, stop) for view in node.inputs)
            part = replace(out, address=out.address + (start - out.first) * out.pitch)
            AttentionLowering(builder, operation, rows.stop - rows.start, node.shape[1], part).lower(q, k, v)
            return
        values = [regions[view.source].of_view(view, start, stop) for view in node.inputs]
        if isinstance(operation, QuantizedLayer):
            address = out.address + (start - out.first) * out.pitch
            lower_dense(builder, operation, Values(values[0]), Results(address, out.pitch))
        elif isinstance(operation, LayerNorm):
            lower_norm(builder, operation, values[0], out, start)
        elif isinstance(operation, ActivationTable):
            lower_activation(builder, operation, values[0], out, start)
        else:
            lower_residual(builder, operation, (values[0], self._second(operation, values, out)), out, start)

    def _second(self, operation: Residual, values: list[NDArray[np.int64]], out: Region) -> NDArray[np.int64]:
        """Addresses of the second operand: the other input, or positions stored as wide values."""
        if operation.positions is None:
            return values[1]
        stored = operation.positions.values
        content = stored.reshape(-1, stored.shape[-1]).astype("<i2")
        padded = np.zeros((len(content), out.beats * self.builder.beat // 2), "<i2")
        padded[:, : content.shape[1]] = content
        address = self.builder.constant(padded.tobytes())
        pitch = out.beats * self.builder.beat
        return Region(address, pitch, out.beats, out.beat, out.zeros).of_tokens(0, len(content))

    def _striped(self, chain: list[Node]) -> None:
        builder = self.builder
        builder.begin_layer()
        begin = len(builder.commands)
        last = chain[-1]
        result = self._region(last.tokens, last.channels, isinstance(last.operation, QuantizedLayer))
        height = rows_of(last.shape)
        of_row = max(node.tokens * node.channels * 2 // rows_of(last.shape) for node in chain[:-1])
        count = max(1, builder.preset.memory_bytes // STRIPED_SHARE // of_row // 2)
        for start in range(0, height, count):
            self._stripe(chain, Rows(start, min(start + count, height)), result)
        self._finish(chain, result, begin)

    def _stripe(self, chain: list[Node], wanted: Rows, result: Region) -> None:
        needed = {chain[-1].number: wanted}
        for node, before in zip(chain[:0:-1], chain[-2::-1], strict=True):
            needed[before.number] = input_rows(node, needed[node.number], rows_of(before.shape))
        regions = dict(self._regions)
        held: Region | None = None
        for node in chain:
            rows = needed[node.number]
            per_row = node.tokens // rows_of(node.shape)
            in_place = isinstance(node.operation, ActivationTable) and held is not None
            if node is chain[-1]:
                region = result
            elif in_place and held is not None:
                region = held
            else:
                dense = isinstance(node.operation, QuantizedLayer)
                region = self._region((rows.stop - rows.start) * per_row, node.channels, dense, rows.start * per_row)
            self._lower(node, rows, region, regions)
            regions[node.number] = region
            if held is not None and held is not region:
                self.builder.memory.free(held.address)
            held = region


def compile_encoder(parameters: Parameters, architecture: Architecture, preset: MachinePreset) -> Program:
    """The image encoder of a model as a program for a machine of `preset`.

    Raises UserError that names the operation and the limit, where something does not fit.
    """
    nodes, embedding = trace(parameters, architecture, preset.lanes)
    compiler = Compiler(preset, nodes, embedding)
    side = architecture.input_format.side
    picture = compiler.place_picture((side, side, 3), nodes)
    compiler.lower(nodes)
    if embedding.beats is not None:
        raise UserError("the embedding is no result of an operation as it stands; the compiler takes no other")
    builder = compiler.builder
    builder.commands.append(Command(Opcode.STOP))
    image, commands, work = builder.image()
    layers = [
        Layer(
            step.names,
            step.kind,
            step.commands,
            Placed(work + step.result.address, step.result.pitch, step.shape, step.exponent),
        )
        for step in compiler.steps
    ]
    picture_place = Placed(
        work + picture.address, picture.pitch, (side, side, 3), architecture.input_exponent, picture.dense
    )
    return Program(
        preset=preset,
        image=image,
        commands=commands,
        writable=work,
        needed_bytes=work + builder.memory.peak,
        picture=picture_place,
        embedding=layers[-1].result,
        layers=layers,
    )
