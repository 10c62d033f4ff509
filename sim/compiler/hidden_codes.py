"""An MLP with its sum in stripes of tokens of which near memory holds the codes of the hidden values, not the values.

Hidden channels leave the first layer in the order in which the second one's encoder takes them (`ordered`). So the
results of a few column tiles are a K tile of the second layer: they become codes, and room for those of the next. The
second layer's results are added, and given up, a column tile at a time as well. Weights are read once per stripe, and a
stripe has many tokens: one of them takes its codes and little else.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from sim.compiler.block_choice import BlockChoice, kept_blocks
from sim.compiler.builder import Builder
from sim.compiler.dense import PassCommands, read_words, run_kept, whole_steps
from sim.compiler.encode import CodePlan, Codes, Values, encode, plan_codes, prepare_encoder, write_codes
from sim.compiler.fuse import Fused
from sim.compiler.passes import layer_passes
from sim.compiler.region import Region
from sim.compiler.results import Results
from sim.compiler.shared_weights import SharedWeights, shared_unit
from sim.compiler.stripes import Rows
from sim.compiler.vector import begin_norm, lower_residual, set_activation
from sim.contract.activation_table import ActivationTable
from sim.contract.constants import TILE_CHANNELS
from sim.contract.encoder import Encoder
from sim.contract.layer import QuantizedLayer
from sim.contract.layer_norm import LayerNorm
from sim.contract.residual import Residual
from sim.machine.ports import Port

TILE_BYTES: Final = TILE_CHANNELS * 2
"""Of a token's wide values of a K tile."""


def is_mlp(stages: Sequence[Fused]) -> bool:
    """True for two dense layers with an activation between them, and an addition to the second one's results."""
    if len(stages) != 3:
        return False
    first, second, added = stages
    layers = first.dense and first.activation is not None and second.dense and second.nodes == [second.main]
    return layers and isinstance(added.main.operation, Residual) and added.nodes == [added.main]


def ordered(stages: Sequence[Fused]) -> list[Fused]:
    """The same MLP with its hidden channels in the order in which the second layer's encoder takes them."""
    first, second, added = stages
    before, behind = first.main.operation, second.main.operation
    assert isinstance(before, QuantizedLayer) and isinstance(behind, QuantizedLayer)
    order = behind.encoder.permutation
    before = replace(before, weight=before.weight[order], scale=before.scale[:, order], bias=before.bias[order])
    encoder = replace(behind.encoder, permutation=np.arange(order.size, dtype=np.uint16))
    return [
        replace(first, main=replace(first.main, operation=before)),
        replace(second, main=replace(second.main, operation=replace(behind, encoder=encoder))),
        added,
    ]


def _of_tile(encoder: Encoder, tile: int) -> Encoder:
    """An encoder of one K tile's positions, which are its channels."""
    positions = encoder.tile_slices()[tile]
    return Encoder(
        encoder.name,
        encoder.input_exponent,
        np.arange(positions.stop - positions.start, dtype=np.uint16),
        encoder.multiplier[positions],
        encoder.addend[positions],
        encoder.shift[tile : tile + 1],
        encoder.tile_levels(tile)[None],
    )


@dataclass(frozen=True)
class HiddenCodes:
    """Three stages that are `is_mlp` and `ordered`, on rows of a token each; result and regions as of NearStripes."""

    stages: Sequence[Fused]
    builder: Builder
    result: Region
    regions: Mapping[int, Region]

    def _layer(self, number: int) -> QuantizedLayer:
        layer = self.stages[number].main.operation
        assert isinstance(layer, QuantizedLayer)
        return layer

    @property
    def _width(self) -> int:
        """Bytes of a token's results of a column tile."""
        return self.builder.preset.columns * 2

    def _plan(self, number: int) -> CodePlan:
        """Codes of a layer's input."""
        return plan_codes(self._layer(number).encoder, self.builder.preset.lanes)

    @property
    def _room(self) -> int:
        """Bytes of near memory for a token, beside its hidden codes: one after the other those of the input, wide
        values of a K tile, and both operands of a sum."""
        return max(self._plan(0).pitch, TILE_BYTES, 2 * self._width)

    def _blocks(self, count: int) -> BlockChoice:
        """Of hidden codes of so many tokens."""
        layer, preset = self._layer(1), self.builder.preset
        words = self._plan(1).pitch // (preset.rows // 2)
        return kept_blocks(preset, count, words, shared_unit(layer, preset))

    @property
    def tokens_max(self) -> int:
        """Tokens of a stripe that near memory and the buffer of codes hold; 0 where they hold none."""
        preset, room, each = self.builder.preset, self.builder.near.room, self._plan(1).pitch + self._room
        words = self._plan(0).pitch // (preset.rows // 2)
        most = min(preset.token_depth, preset.block_words // words, room // each)
        if not most:
            return 0
        # Weights that two passes share have a room of their own, if that leaves any tokens.
        shared = shared_unit(self._layer(1), preset)
        left = room - (shared.rooms(self._blocks(most).words) if shared else 0)
        return min(most, max(left, 0) // each) or most

    def stripe(self, rows: Rows) -> None:
        """These tokens of the result. Raises RoomError where near memory is too small."""
        near, plan, count = self.builder.near, self._plan(1), rows.stop - rows.start
        codes = Codes(near.take(count * plan.pitch), plan.pitch, plan.planes)
        room = near.take(count * self._room)
        self._input(rows, room)
        self._hidden(count, room, codes)
        self._summed(rows, room, codes)
        near.free(room)
        near.free(codes.address)

    def _input(self, rows: Rows, room: int) -> None:
        """Codes of the first layer's input to `room`: the encoder is soon needed for others, so that they cannot go
        to the array as they come."""
        builder, stage = self.builder, self.stages[0]
        view = stage.first.inputs[0]
        addresses = self.regions[view.source].of_view(view, np.arange(rows.start, rows.stop))
        prepare_encoder(builder, self._plan(0))
        if stage.norm is not None:
            assert isinstance(stage.norm.operation, LayerNorm)
            begin_norm(builder, stage.norm.operation, len(addresses))
            builder.route(Port.NORMED, addresses.shape[1])
        write_codes(builder, self._plan(0), Values(addresses, normed=stage.norm is not None), room)
        builder.wait()
        if stage.norm is not None:
            builder.unroute(Port.NORMED)

    def _hidden(self, count: int, room: int, codes: Codes) -> None:
        """Codes of hidden values, K tile by K tile."""
        builder, stage, preset = self.builder, self.stages[0], self.builder.preset
        assert stage.activation is not None and isinstance(stage.activation.operation, ActivationTable)
        set_activation(builder, stage.activation.operation)
        builder.route(Port.RESULTS)
        layer = layer_passes(builder, self._layer(0))
        commands, share = PassCommands(builder, layer), TILE_CHANNELS // preset.columns
        # The reader takes the block, and later all values of a K tile, before operands of the passes whose results come
        # to the same place.
        builder.send(Port.CODE_BLOCK, words=count * layer.words)
        read_words(builder, room, layer.words, count, self._plan(0).pitch)
        for tile, plan in enumerate(self._tile_plans()):
            results = Results(room - tile * TILE_BYTES, TILE_BYTES, Port.ACTIVATED)
            columns = range(tile * share, min((tile + 1) * share, layer.columns))
            for step in whole_steps(commands, results, 0, count, columns):
                step()
            builder.wait()
            beats = np.arange(plan.order.size // preset.lanes) * builder.beat
            values = room + np.arange(count)[:, None] * TILE_BYTES + beats
            place = codes.address + codes.plane(tile, 0)
            encode(builder, plan, values, place, (plan.pitch // builder.beat, builder.beat), (count, codes.pitch))
        builder.wait()
        builder.unroute(Port.RESULTS)

    def _tile_plans(self) -> Iterator[CodePlan]:
        encoder = self._layer(1).encoder
        for tile in range(encoder.tiles):
            yield plan_codes(_of_tile(encoder, tile), self.builder.preset.lanes)

    def _summed(self, rows: Rows, room: int, codes: Codes) -> None:
        """The second layer and the addition, a column tile at a time."""
        builder, added = self.builder, self.stages[2].main
        beat, width, count = builder.beat, self._width, rows.stop - rows.start
        tokens = np.arange(rows.start, rows.stop)
        number = self.stages[1].main.number
        (other,) = (view for view in added.inputs if view.source != number)
        layer = layer_passes(builder, self._layer(1))
        commands = PassCommands(builder, layer)
        choice = self._blocks(count)
        shared = SharedWeights.room(builder, layer, shared_unit(self._layer(1), builder.preset), choice.words)
        results, copy = room, room + count * width
        for tile in range(layer.columns):
            first = tile * width // beat
            beats = min(width // beat, self.result.beats - first)
            # Operands of equal loops are one READ.
            builder.write_loops(Port.COPIED, copy, (beats, beat), (count, width))
            builder.read(Port.COPY, self.regions[other.source].of_tokens(tokens)[:, first : first + beats])
            run_kept(commands, codes, choice, Results(results - tile * width, width), tiles=(tile,), shared=shared)
            builder.wait()
            inside = np.arange(count)[:, None] * width + np.arange(beats) * beat
            operands = [(results if view.source == number else copy) + inside for view in added.inputs]
            out = replace(self.result, address=self.result.address + tile * width, beats=beats)
            assert isinstance(added.operation, Residual)
            lower_residual(builder, added.operation, (operands[0], operands[1]), out, tokens)
        if shared is not None:
            builder.near.free(shared.address)
