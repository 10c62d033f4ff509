"""The image encoder of a model as a program of the machine."""

from collections import Counter
from copy import deepcopy
from dataclasses import dataclass

import numpy as np

from sim.compiler.builder import Builder
from sim.compiler.dense import results_pitch
from sim.compiler.fuse import Fused, fuse
from sim.compiler.held_constants import hold_constants, release_constants
from sim.compiler.lowering import Lowering
from sim.compiler.memory import RoomError
from sim.compiler.near_stripes import Known, NearStripes, flattened, token_by_token
from sim.compiler.near_windows import NearWindows
from sim.compiler.region import Region
from sim.compiler.same_parts import SameParts
from sim.compiler.stripes import Rows, chains, input_rows, rows_of
from sim.compiler.tile_choice import TileTrial, windows_of
from sim.compiler.tile_parts import TileParts
from sim.compiler.tiles import Tiles, in_tiles
from sim.compiler.trace import PICTURE, Node, View, trace
from sim.compiler.window_chain import window_chain
from sim.compiler.window_choice import KnownWindows, WindowTrial
from sim.contract.activation_table import ActivationTable
from sim.contract.errors import UserError
from sim.contract.layer import QuantizedLayer
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
        self._known: Known = {}
        self._known_windows: KnownWindows = {}
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
        found = chains(nodes, self._readers, self.builder.preset.lanes)
        done: list[Node] = []
        for chain, behind in zip(found, [*found[1:], []], strict=True):
            if chain is done:
                continue
            if self._windows([*chain, *behind]):
                done = behind
            else:
                self._chain(chain)

    def _chain(self, chain: list[Node]) -> None:
        stages = fuse(chain, self.builder.preset)
        if token_by_token(stages) and self._near(chain, stages):
            return
        if in_tiles(stages) and self._tiled(chain, stages):
            return
        largest = max((stage.last.tokens * stage.last.channels * 2 for stage in stages[:-1]), default=0)
        if largest > self.builder.preset.memory_bytes // STRIPED_SHARE:
            self._striped(chain)
        else:
            for fused in stages:
                self._whole(fused)

    def _whole(self, fused: Fused) -> None:
        self.builder.begin_layer()
        begin = len(self.builder.commands)
        region = self._result_region(fused)
        try:
            Lowering(self.builder, Rows(0, rows_of(fused.last.shape)), region, self._regions).lower(fused)
        except ValueError as error:
            raise UserError(f"{fused.main.name} does not fit a command of the machine ({error})") from error
        self._finish(fused.nodes, region, begin)

    def _finish(self, chain: list[Node], region: Region, begin: int, *, rolled: bool = False) -> None:
        node = chain[-1]
        if rolled:
            self.builder.leave()
        else:
            self.builder.roll()
        self._regions[node.number] = region
        span = begin * COMMAND_BYTES, len(self.builder.commands) * COMMAND_BYTES
        names = tuple(one.name for one in chain)
        kind = type(node.operation).__name__ if len(chain) == 1 else "chain"
        exponent = node.operation.wide_exponent
        self.steps.append(_Step(names, kind, span, region, node.shape, exponent))
        inside = {one.number for one in chain}
        for view in (view for one in chain for view in one.inputs if view.source not in inside):
            self._unread[view.source] -= 1
            if not self._unread[view.source]:
                old = self._regions.pop(view.source)
                if old.address != region.address:
                    self.builder.memory.free(old.address)

    def _result_region(self, fused: Fused) -> Region:
        """Room for a result: that of an operand which nobody reads any more, for operations on single values."""
        node = fused.main
        if isinstance(node.operation, ActivationTable | Residual):
            for view in node.inputs:
                whole = view.source != PICTURE and view.beats is None
                if whole and self._unread[view.source] == 1 and view.channels == node.channels:
                    return self._regions[view.source]
        return self._region(node.tokens, node.channels, fused.dense)

    def _near(self, chain: list[Node], stages: list[Fused]) -> bool:
        """In stripes of near memory, where that is the cheaper way."""
        self.builder.begin_layer()
        begin = len(self.builder.commands)
        result = self._overwritten(chain) or self._region(chain[-1].tokens, chain[-1].channels, stages[-1].dense)
        if NearStripes(flattened(stages), self.builder, result, self._regions, self._known).lower():
            self._finish(chain, result, begin)
            return True
        if all(result is not region for region in self._regions.values()):
            self.builder.memory.free(result.address)
        return False

    def _windows(self, chain: list[Node]) -> bool:
        """Attention in windows and the sum behind it, some windows at a time, where that is the cheaper way."""
        builder = self.builder
        found = window_chain(fuse(chain, builder.preset), builder.preset.lanes)
        if found is None or self._readers[found.attend.number] != 1:
            return False
        builder.begin_layer()
        begin = len(builder.commands)
        # A window's sum is written when all of the window has been read, and no other reads of it.
        result = self._overwritten(chain, at_once=True) or self._region(found.add.tokens, found.add.channels, False)
        plan = WindowTrial(found, builder, result, self._regions, self._known_windows).choice()
        if plan is None:
            if all(result is not region for region in self._regions.values()):
                builder.memory.free(result.address)
            return False
        hold_constants(builder, plan.constants)
        parts = NearWindows(found, builder, result, self._regions, plan.heads)
        SameParts(builder, parts).lower(found.stripes(plan.windows))
        release_constants(builder)
        self._finish(chain, result, begin, rolled=True)
        return True

    def _overwritten(self, chain: list[Node], *, at_once: bool = False) -> Region | None:
        """Room of a tensor that an addition at the end of a chain adds and nobody else reads: token by token or, where
        parts of it are read at once, in any order."""
        reads = Counter(view.source for node in chain for view in node.inputs if at_once or view.beats is None)
        sums = [node for node in chain if isinstance(node.operation, Residual)]
        for view in (view for node in sums for view in node.inputs):
            dead = reads[view.source] == self._unread[view.source]
            if view.source in self._regions and view.source != PICTURE and dead and view.channels == chain[-1].channels:
                return self._regions[view.source]
        return None

    def _tiled(self, chain: list[Node], stages: list[Fused]) -> bool:
        """In windows of near memory, where they fit."""
        builder = self.builder
        tiles = Tiles(stages, builder.preset)
        builder.begin_layer()
        begin = len(builder.commands)
        last = chain[-1]
        result = self._region(last.tokens, last.channels, dense_results=True)
        choice = TileTrial(builder, tiles, result, self._regions).choice()
        if choice is None:
            builder.memory.free(result.address)
            return False
        near, memory = deepcopy(builder.near), deepcopy(builder.memory)
        try:
            hold_constants(builder, choice.constants)
            height, width, _ = last.shape
            windows = windows_of(height, width, choice.rows, choice.columns)
            SameParts(builder, TileParts(builder, tiles, result, self._regions)).lower(windows)
        except RoomError:
            # Of the windows two were lowered for a try; one at the end of a map can need more.
            del builder.commands[begin:]
            builder.near, builder.memory = near, memory
            builder.near_constants.set({})
            builder.memory.free(result.address)
            return False
        release_constants(builder)
        self._finish(chain, result, begin, rolled=True)
        return True

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
        for fused in fuse(chain, self.builder.preset):
            node = fused.last
            rows = needed[node.number]
            per_row = node.tokens // rows_of(node.shape)
            if node is chain[-1]:
                region = result
            elif isinstance(fused.main.operation, ActivationTable) and held is not None:
                region = held
            else:
                count = (rows.stop - rows.start) * per_row
                region = self._region(count, node.channels, fused.dense, rows.start * per_row)
            Lowering(self.builder, rows, region, regions).lower(fused)
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
