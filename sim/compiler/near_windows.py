"""A block's attention in windows, some windows at a time, with all between the map and the sum in near memory.

External memory gives the windows' pixels and gets their sums. A window at the edge of the map is padded near; windows
that are padded alike differ in their place alone. Heads come in groups, so that q, k and v need be there for some of
them alone; each group's layer reads the codes of the windows again then.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sim.compiler.builder import Builder
from sim.compiler.dense import PassCommands, results_pitch, run_encoded
from sim.compiler.encode import CodedValues, Codes, Values, plan_codes, prepare_encoder, write_codes
from sim.compiler.fuse import Fused
from sim.compiler.head_groups import attention_of, layer_of
from sim.compiler.lowering import Lowering
from sim.compiler.passes import layer_passes
from sim.compiler.region import ChosenTokens, Region
from sim.compiler.results import Results
from sim.compiler.same_parts import Shift
from sim.compiler.stripes import Rows
from sim.compiler.trace import ZERO, Node, View
from sim.compiler.vector import begin_norm
from sim.compiler.window_chain import WindowChain
from sim.contract.attention import Attention
from sim.contract.layer import QuantizedLayer
from sim.contract.layer_norm import LayerNorm
from sim.machine.ports import Port

Windows = tuple[int, ...]
"""Numbers of the windows of a stripe, which are alike."""


@dataclass(frozen=True)
class _Group:
    """Some heads: the layer that makes their q, then k, then v, and their attention."""

    first: int
    layer: QuantizedLayer
    attention: Attention


@dataclass(frozen=True)
class NearWindows:
    """How to lower stripes of a chain. heads: of a group. regions: as of Lowering; the sum goes to `result`, which may
    be where the map is."""

    chain: WindowChain
    builder: Builder
    result: Region
    regions: Mapping[int, Region]
    heads: int

    @cached_property
    def _groups(self) -> list[_Group]:
        qkv, attend = self.chain.qkv.main, self.chain.attend
        layer, attention = qkv.operation, attend.operation
        assert isinstance(layer, QuantizedLayer) and isinstance(attention, Attention)
        lanes = self.builder.preset.lanes
        parts = [view.beats for view in attend.inputs]
        beats = attention.q.channels // attention.heads // lanes
        groups = []
        for first in range(0, attention.heads, self.heads):
            heads = range(first, min(first + self.heads, attention.heads))
            of_heads = slice(heads.start * beats, heads.stop * beats)
            # The first token of the first window: its beats tell the channels of all.
            read = np.concatenate([part[0, of_heads] for part in parts if part is not None]).astype(np.int64)
            channels = (read[:, None] * lanes + np.arange(lanes)).reshape(-1)
            groups.append(_Group(first, layer_of(layer, channels), attention_of(attention, heads)))
        return groups

    # Parts of a step

    def shape(self, part: Windows) -> Hashable:
        """Of a stripe: padding, number and distance of its windows."""
        corners = self.chain.corners[list(part)]
        return self.chain.kinds[part[0]], tuple((corners - corners[0]).tolist())

    def shifts(self, there: Windows, here: Windows) -> list[Shift]:
        """Of the map that is cut, of what is added to the attention, and of the sum."""
        pixels = int(self.chain.corners[here[0]] - self.chain.corners[there[0]])
        read = [self.regions[view.source] for view in (self.chain.cut, self.chain.added)]
        regions = {region.address: region for region in (*read, self.result)}
        return [
            (region.address, region.address + self.chain.add.tokens * region.pitch, pixels * region.pitch)
            for region in regions.values()
        ]

    def lower(self, part: Windows) -> None:
        """All of the chain for some windows. Raises RoomError where near memory is too small."""
        chain, builder = self.chain, self.builder
        near = builder.near
        pixels = chain.pixels[list(part)].reshape(-1)
        real = np.flatnonzero(pixels != ZERO)
        held = self._copied(part)
        attended = self._room(len(pixels), chain.attend.channels)
        self._attention(held, attended, len(part))
        width = self._room(len(real), chain.proj.channels, results_pitch(chain.proj.channels, builder.preset))
        proj = _of_tokens(chain.proj, len(real), (_chosen(chain.attend, real, attended.beats),))
        self._stage(Fused(proj), width, {chain.attend.number: attended})
        near.free(attended.address)
        self._sum(pixels[real], real, held, width)
        near.free(width.address)
        near.free(held.address)

    def _sum(self, pixels: NDArray[np.int64], real: NDArray[np.int64], held: Region, second: Region) -> None:
        """Of these pixels of the map. real: which tokens of `held`, the windows, they are; second: the last layer's."""
        chain = self.chain
        regions = {chain.proj.number: second}
        views = []
        for view in chain.add.inputs:
            if view.source == chain.proj.number or view.source != chain.cut.source:
                views.append(View(view.source, (len(real), view.channels)))
            else:
                views.append(_chosen(view, real, held.beats))
        if chain.added.source == chain.cut.source:
            regions[chain.added.source] = held
        else:
            regions[chain.added.source] = _some(self.regions[chain.added.source], pixels)
        self._stage(Fused(_of_tokens(chain.add, len(real), tuple(views))), _some(self.result, pixels), regions)

    def _stage(self, stage: Fused, out: Region, regions: dict[int, Region]) -> None:
        Lowering(self.builder, Rows(0, stage.last.shape[0]), out, regions).lower(stage)

    def _room(self, tokens: int, channels: int, pitch: int | None = None) -> Region:
        """Of near memory, for tokens that count from 0."""
        pitch = pitch or -(-channels // self.builder.preset.lanes) * self.builder.beat
        return self._region(self.builder.near.take(tokens * pitch), channels, pitch)

    def _region(self, address: int, channels: int, pitch: int) -> Region:
        builder = self.builder
        return Region(address, pitch, -(-channels // builder.preset.lanes), builder.beat, builder.zeros)

    def _copied(self, part: Windows) -> Region:
        """The windows one behind the other, padding and all."""
        builder, view = self.builder, self.chain.cut
        token = np.array(part)[:, None] * self.chain.pixels.shape[1] + np.arange(self.chain.pixels.shape[1])
        beats = self.regions[view.source].of_view(view, token.reshape(-1))
        return self._region(builder.bring(beats), view.channels, beats.shape[1] * builder.beat)

    # Attention

    def _attention(self, held: Region, attended: Region, windows: int) -> None:
        """Of windows that lie in `held`."""
        near, groups = self.builder.near, self._groups
        tokens = windows * self.chain.pixels.shape[1]
        codes = self._codes(held, tokens) if len(groups) > 1 else None
        for group in groups:
            room = self._room(tokens, group.layer.outputs, results_pitch(group.layer.outputs, self.builder.preset))
            if codes is None:
                self._qkv(group.layer, held, room, tokens)
            else:
                self._qkv_of_codes(group.layer, codes, room, tokens)
            self._attend(group, room, attended, windows)
            near.free(room.address)
        if codes is not None:
            near.free(codes.address)

    def _qkv(self, layer: QuantizedLayer, held: Region, out: Region, tokens: int) -> None:
        """From the windows' pixels, which nobody else reads."""
        qkv, view = self.chain.qkv, View(self.chain.cut.source, (tokens, self.chain.cut.channels))
        main = replace(_of_tokens(qkv.main, tokens, (view,)), operation=layer, shape=(tokens, layer.outputs))
        norm = None if qkv.norm is None else _of_tokens(qkv.norm, tokens, (view,))
        self._stage(replace(qkv, main=main, norm=norm), out, {view.source: held})

    def _codes(self, held: Region, tokens: int) -> Codes:
        """Of the windows' pixels, behind the norm: what the layers of all groups read."""
        builder, qkv = self.builder, self.chain.qkv
        layer, norm = qkv.main.operation, qkv.norm and qkv.norm.operation
        assert isinstance(layer, QuantizedLayer)
        plan = plan_codes(layer.encoder, builder.preset.lanes)
        codes = Codes(builder.near.take(tokens * plan.pitch), plan.pitch, plan.planes)
        prepare_encoder(builder, plan)
        if isinstance(norm, LayerNorm):
            begin_norm(builder, norm, tokens)
            builder.route(Port.NORMED, norm.gain.size // builder.preset.lanes)
        write_codes(builder, plan, Values(held.of_tokens(np.arange(tokens)), normed=norm is not None), codes.address)
        builder.wait()
        if norm is not None:
            builder.unroute(Port.NORMED)
        return codes

    def _qkv_of_codes(self, layer: QuantizedLayer, codes: Codes, out: Region, tokens: int) -> None:
        builder = self.builder
        passes, values = layer_passes(builder, layer), CodedValues.of_codes(codes, tokens, builder.beat)
        block = min(builder.preset.token_depth, builder.preset.block_words // passes.words)
        run_encoded(PassCommands(builder, passes), values, block, Results(out.address, out.pitch))
        builder.wait()

    def _attend(self, group: _Group, room: Region, attended: Region, windows: int) -> None:
        """A group's q, k and v, in this order in `room`, to its channels of `attended`."""
        node, tokens = self.chain.attend, self.chain.pixels.shape[1]
        channels = group.attention.q.channels
        beats = channels // self.builder.preset.lanes
        of_token = group.layer.outputs // self.builder.preset.lanes
        token = np.arange(windows * tokens, dtype=np.int32)[:, None] * of_token
        views = tuple(
            View(
                self.chain.qkv.main.number,
                (windows, tokens, channels),
                token + np.arange(part * beats, (part + 1) * beats, dtype=np.int32),
            )
            for part in range(len(node.inputs))
        )
        width = channels // group.attention.heads
        out = replace(attended, address=attended.address + group.first * width * 2, beats=beats)
        local = replace(node, operation=group.attention, inputs=views, shape=(windows, tokens, channels))
        self._stage(Fused(local), out, {self.chain.qkv.main.number: room})


def _of_tokens(node: Node, tokens: int, inputs: tuple[View, ...]) -> Node:
    """The same operation on so many tokens."""
    return replace(node, inputs=inputs, shape=(tokens, node.channels))


def _chosen(source: Node | View, tokens: NDArray[np.int64], beats: int) -> View:
    """Some whole tokens of a tensor."""
    number = source.number if isinstance(source, Node) else source.source
    of_beat = tokens[:, None] * beats + np.arange(beats)
    return View(number, (len(tokens), source.channels), of_beat.astype(np.int32))


def _some(region: Region, numbers: NDArray[np.int64]) -> ChosenTokens:
    """Tokens of a region by numbers of their own."""
    return ChosenTokens(
        *(region.address, region.pitch, region.beats, region.beat, region.zeros, region.first), numbers=numbers
    )
