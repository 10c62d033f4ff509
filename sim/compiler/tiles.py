"""Chains of operations on windows of a map that near memory holds: no result in between is ever in external memory.

What an operation makes lies where its input lay, if it is no larger: a depthwise convolution has read a pixel of some
channels long before it writes there, and a dense layer all of a block of tokens. What a depthwise convolution gives at
the edges of a window that are none of the map is wrong, and nobody reads it. A tensor that a chain reads twice, at its
begin and for a sum, comes near with the window.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.compiler.builder import Builder
from sim.compiler.dense import results_pitch
from sim.compiler.fuse import Fused
from sim.compiler.lowering import Lowering
from sim.compiler.memory import aligned
from sim.compiler.region import Region
from sim.compiler.results import Results
from sim.compiler.stripes import Rows
from sim.compiler.trace import Node, View
from sim.compiler.vector import begin_depthwise
from sim.compiler.windows import Window, WindowRegion, source_window
from sim.contract.depthwise import Depthwise
from sim.contract.layer import QuantizedLayer
from sim.contract.residual import Residual
from sim.machine.ports import Port
from sim.machine.presets import MachinePreset


@dataclass(frozen=True, kw_only=True)
class WindowLowering(Lowering):
    """Results of a window, whose rows `rows` are, to a region that holds it."""

    window: Window

    def _tokens(self, node: Node) -> NDArray[np.int64]:
        return self.window.tokens(node.shape[1])

    def _results(self, node: Node, port: Port) -> Results:
        columns = node.shape[1]
        corner = self.window.corner(columns)
        first, below = self.out.at(np.array([corner, corner + columns])).tolist()
        return Results(first, self.out.pitch, port, self.window.width, below - first)

    def _depthwise(self, node: Node, depthwise: Depthwise, port: Port) -> None:
        """All that the unit gives for what `source` holds goes to `out`, which may lie in the same place."""
        builder, beat = self.builder, self.builder.beat
        source = self.regions[node.inputs[0].source]
        assert isinstance(source, WindowRegion)
        held = source.window
        for group, channels in enumerate(begin_depthwise(builder, depthwise, held.height, held.width)):
            builder.write_loops(port, self.out.address + group * beat, (1, beat), (self.window.pixels, self.out.pitch))
            builder.read_block(Port.DEPTHWISE_CHANNEL, channels, builder.preset.lanes)
            place = source.address + group * beat
            builder.read_loops(Port.DEPTHWISE_VALUES, place, (1, beat), (held.pixels, source.pitch))
        builder.wait()


def in_tiles(stages: Sequence[Fused]) -> bool:
    """True for dense layers and depthwise convolutions of maps, some of each, and an addition to the last dense layer.

    Dense layers are at either end, but for the addition.
    """
    operations = [stage.main.operation for stage in stages]
    added = len(stages) > 2 and isinstance(operations[-1], Residual)
    inner = operations[:-1] if added else operations
    dense = [isinstance(one, QuantizedLayer) for one in inner]
    maps = all(len(stage.main.shape) == 3 for stage in stages)
    kinds = all(isinstance(one, QuantizedLayer | Depthwise) for one in inner)
    whole = all(view.beats is None for stage in stages if not stage.dense for view in stage.main.inputs)
    return maps and kinds and whole and dense[0] and dense[-1] and not all(dense)


def convolved_window(window: Window, stride: int) -> Window:
    """All results of a depthwise convolution of a window, whose first row and column are multiples of the stride."""

    def along(side: Rows) -> Rows:
        start = side.start // stride
        return Rows(start, start + -(-(side.stop - side.start) // stride))

    return Window(along(window.rows), along(window.columns))


@dataclass(frozen=True)
class Tiles:
    """A chain, stage by stage, to be computed window by window."""

    stages: Sequence[Fused]
    preset: MachinePreset

    @property
    def _twice(self) -> View | None:
        """What the first stage reads as it stands, and an addition at the end reads too."""
        first, last = self.stages[0].first.inputs[0], self.stages[-1].main
        sums = isinstance(last.operation, Residual) and first.beats is None
        return first if sums and first.source in [view.source for view in last.inputs] else None

    def _pitch(self, stage: Fused) -> int:
        """Bytes of a pixel of a result in near memory."""
        return results_pitch(stage.main.channels, self.preset)

    def windows(self, wanted: Window) -> list[Window]:
        """What each stage leaves in memory for the wanted window of the last one's result."""
        needed = [wanted]
        for stage, before in zip(self.stages[:0:-1], self.stages[-2::-1], strict=True):
            needed.insert(0, source_window(stage.first, needed[0], before.last, self.preset.lanes))
        given = [needed[0]]
        for stage, window in zip(self.stages[1:], needed[1:], strict=True):
            operation = stage.main.operation
            given.append(convolved_window(given[-1], operation.stride) if isinstance(operation, Depthwise) else window)
        return given

    def shape(self, wanted: Window) -> tuple[tuple[int, ...], ...]:
        """Equal for windows whose commands differ in addresses of external memory alone: sizes and places of all that
        the stages leave, counted from the wanted window."""
        scale, result = 1, []
        for stage, window in zip(self.stages[::-1], self.windows(wanted)[::-1], strict=True):
            top = window.rows.start - scale * wanted.rows.start
            left = window.columns.start - scale * wanted.columns.start
            result.append((window.height, window.width, top, left))
            scale *= stage.main.operation.stride if isinstance(stage.main.operation, Depthwise) else 1
        return tuple(result)

    def near_bytes(self, wanted: Window) -> int:
        """Bytes of near memory for a window, but constants."""
        windows = self.windows(wanted)
        twice = self._twice
        kept = 0
        if twice is not None:
            beats = -(-twice.channels // self.preset.lanes)
            kept = aligned(windows[0].pixels * beats * self.preset.beat_bytes)
        held = most = pitch = 0
        for stage, window in zip(self.stages[:-1], windows, strict=False):
            if not self._replaces(stage, pitch):
                size = aligned(window.pixels * self._pitch(stage))
                held, most = size, max(most, held + size)
            pitch = self._pitch(stage)
        return kept + most

    def _replaces(self, stage: Fused, pitch: int) -> bool:
        """True where a result may lie where its input of this pitch lies."""
        return stage.first.inputs[0].beats is None and self._pitch(stage) <= pitch

    def lower(self, builder: Builder, wanted: Window, result: Region, regions: Mapping[int, Region]) -> None:
        """The wanted window of the last stage's result to the region of the whole; inputs are in `regions`.

        Raises RoomError where near memory is too small.
        """
        regions, windows, twice = dict(regions), self.windows(wanted), self._twice
        if twice is not None:
            regions[twice.source] = self._copied(builder, twice, windows[0], regions[twice.source])
        held: WindowRegion | None = None
        for stage, window in zip(self.stages[:-1], windows, strict=False):
            out = self._near(builder, stage, window, held)
            WindowLowering(builder, window.rows, out, regions, window=window).lower(stage)
            regions[stage.last.number] = out
            if held is not None and held.address != out.address:
                builder.near.free(held.address)
            held = out
        WindowLowering(builder, wanted.rows, result, regions, window=wanted).lower(self.stages[-1])
        assert held is not None
        builder.near.free(held.address)
        if twice is not None:
            builder.near.free(regions[twice.source].address)

    def _copied(self, builder: Builder, view: View, window: Window, source: Region) -> WindowRegion:
        """A window of a tensor, brought near."""
        address, pitch = builder.bring(source.of_tokens(window.tokens(view.shape[1]))), source.beats * source.beat
        place = (address, pitch, source.beats, source.beat, source.zeros)
        return WindowRegion(*place, window=window, columns=view.shape[1])

    def _near(self, builder: Builder, stage: Fused, window: Window, held: WindowRegion | None) -> WindowRegion:
        node, pitch = stage.main, self._pitch(stage)
        if held is None or not self._replaces(stage, held.pitch):
            address = builder.near.take(window.pixels * pitch)
        else:
            address = held.address
            if stage.dense:
                window = held.window
        beats = -(-node.channels // self.preset.lanes)
        return WindowRegion(address, pitch, beats, builder.beat, builder.zeros, window=window, columns=node.shape[1])
