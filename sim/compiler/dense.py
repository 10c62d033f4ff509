"""Dense layers: passes of 4 bits over blocks of codes.

Two ways. Codes of a block of tokens come from the encoder, and every column tile reads the block: the values are read
once, the weights once per block. Or codes are kept in memory, and every column tile reads them again in blocks of some
K tiles of many tokens: for long tokens, of which few fit the buffer. `sim.compiler.block_choice` chooses.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from sim.compiler.block_choice import BlockChoice, LayerSize, choose_blocks
from sim.compiler.builder import Builder, Levels, pack_nibbles
from sim.compiler.code_blocks import CodeBlock, Step, run_blocks
from sim.compiler.encode import Codes, Values, plan_codes, prepare_encoder, write_codes
from sim.compiler.loops import Nest
from sim.compiler.memory import aligned
from sim.contract.constants import TILE_CHANNELS
from sim.contract.layer import QuantizedLayer, weight_nibbles
from sim.machine.commands import Opcode
from sim.machine.ports import Port
from sim.machine.presets import MachinePreset
from sim.machine.settings import Phase
from sim.machine.sweep import sweep_steps


@dataclass(frozen=True)
class Pass:
    """One LOAD and RUN of a column tile: index of its codebook; addresses of scale and weights of column tile 0; which
    word of a token's codes it takes."""

    codebook: int
    scale: int
    weights: int
    word: int


@dataclass(frozen=True)
class Passes:
    """All passes of a layer. words: of a token. planes: address and bytes of each nibble of all weights. bias: address
    for column tile 0. pitches of scale, bias and weights: bytes from a column tile to the next. load: cycles of a LOAD,
    of the slowest codebook."""

    passes: tuple[Pass, ...]
    words: int
    planes: tuple[tuple[int, int], ...]
    bias: int
    columns: int
    scale_pitch: int
    bias_pitch: int
    weight_pitch: int
    load: int


@dataclass(frozen=True)
class Results:
    """Where the results of a layer's tokens go, from its first: address, pitch of a token; port: RESULTS, or the output
    at the end of a route."""

    address: int
    pitch: int
    port: Port = Port.RESULTS


def pack_weights(weight: NDArray[np.int8], preset: MachinePreset) -> bytes:
    """Weights (N, K), both multiples of the array's sides, as [column tile][row block][row][column] nibbles."""
    outputs, inputs = weight.shape
    tiles = weight.reshape(outputs // preset.columns, preset.columns, inputs // preset.rows, preset.rows)
    return pack_nibbles(tiles.transpose(0, 2, 3, 1))


def padded(values: NDArray, *shape: int) -> NDArray:
    """A copy in the corner of zeros of this shape."""
    result = np.zeros(shape, values.dtype)
    result[tuple(slice(length) for length in values.shape)] = values
    return result


def load_cycles(books: list[Levels], preset: MachinePreset) -> int:
    """Cycles of a LOAD of the slowest of these codebooks (hdl.matmul)."""
    return preset.rows // preset.loader_rows * max(sweep_steps(levels) for levels in books) + 3


def layer_passes(builder: Builder, layer: QuantizedLayer) -> Passes:
    """The passes of a layer on codes in its encoder's order, its constants stored, its codebooks read.

    Raises UserError when it has more codebooks than the array.
    """
    preset, form = builder.preset, layer.array_form
    tiles = -(-layer.outputs // preset.columns)
    outputs = tiles * preset.columns
    books: list[Levels] = [tuple(levels) for levels in form.codebooks.tolist()]
    distinct = list(dict.fromkeys(books))
    first_book = builder.codebooks(distinct, layer.name)
    blocks = TILE_CHANNELS // preset.rows
    inputs = layer.encoder.tiles * TILE_CHANNELS
    weights = [
        builder.constant(pack_weights(padded(nibble, outputs, inputs), preset))
        for nibble in weight_nibbles(layer.weight, layer.weight_planes)
    ]
    block_bytes = preset.rows * preset.columns // 2
    scale = padded(form.scale, len(form.scale), outputs).reshape(len(form.scale), tiles, preset.columns)
    scale_address = builder.constant(np.ascontiguousarray(scale.transpose(1, 0, 2)).astype("<u2").tobytes())
    passes = []
    planes = layer.encoder.code_planes
    for tile, positions in enumerate(layer.encoder.tile_slices()):
        for number in range(layer.passes):
            nibble, plane = divmod(number, layer.level_planes)
            index = tile * layer.passes + number
            for block in range(-(-(positions.stop - positions.start) // preset.rows)):
                passes.append(
                    Pass(
                        codebook=first_book + distinct.index(books[index]),
                        scale=scale_address + index * preset.columns * 2,
                        weights=weights[nibble] + (tile * blocks + block) * block_bytes,
                        word=(tile * planes + (plane if planes == 2 else 0)) * blocks + block,
                    )
                )
    return Passes(
        passes=tuple(passes),
        words=layer.encoder.tiles * planes * blocks,
        planes=tuple((address, outputs * inputs // 2) for address in weights),
        bias=builder.constant(padded(layer.bias, outputs).astype("<i4").tobytes()),
        columns=tiles,
        scale_pitch=len(form.scale) * preset.columns * 2,
        bias_pitch=preset.columns * 4,
        weight_pitch=inputs // preset.rows * block_bytes,
        load=load_cycles(distinct, preset),
    )


def array_command(builder: Builder, phase: Phase, **fields: int) -> None:
    """SEND a command of the array; fields that are not given are 1 (keys and loops) or 0."""
    command = {"codebook": 0, "keys": 1, "tiles": 1, "groups": 1, "planes": 1, "runs": 1, "split": 0}
    command |= {"release": 0, "word": 0, "pitch": 0}
    builder.send(Port.ARRAY_COMMAND, phase=phase, **(command | fields))


def _write_tile(builder: Builder, results: Results, tile: int, start: int, count: int) -> None:
    width = builder.preset.columns * 2
    builder.write_loops(
        results.port,
        results.address + start * results.pitch + tile * width,
        (width // builder.beat, builder.beat),
        (count, results.pitch),
    )


def _run_pass(builder: Builder, layer: Passes, one: Pass, tile: int, **fields: int) -> None:
    """A command of the array and its operands."""
    array_command(builder, Phase.DENSE, codebook=one.codebook, **fields)
    builder.read_block(Port.SCALE, one.scale + tile * layer.scale_pitch, 1)
    if fields["first"]:
        builder.read_block(Port.BIAS, layer.bias + tile * layer.bias_pitch, 1)
    loads = builder.preset.rows // builder.preset.loader_rows
    builder.read_block(Port.WEIGHTS, one.weights + tile * layer.weight_pitch, loads)


def _whole_steps(builder: Builder, layer: Passes, results: Results, start: int, count: int) -> list[Step]:
    """Every column tile on a block that holds all codes of its tokens."""

    def step(tile: int, number: int) -> None:
        first, last = number == 0, number == len(layer.passes) - 1
        if first:
            _write_tile(builder, results, tile, start, count)
        _run_pass(
            builder,
            layer,
            layer.passes[number],
            tile,
            queries=count,
            first=first,
            last=last,
            release=last and tile == layer.columns - 1,
            word=layer.passes[number].word,
            pitch=layer.words,
        )

    return [partial(step, tile, number) for tile in range(layer.columns) for number in range(len(layer.passes))]


def run_encoded(builder: Builder, layer: Passes, values: Values, block: int, results: Results) -> None:
    """All values in blocks of up to `block` tokens that the encoder fills."""

    def blocks() -> Iterator[CodeBlock]:
        for start in range(0, values.count, block):
            count = min(block, values.count - start)
            yield CodeBlock(
                words=count * layer.words,
                tokens=count,
                beats=values.cycles(builder.preset),
                feed=partial(values.part(start, start + count).read, builder),
                steps=_whole_steps(builder, layer, results, start, count),
                period=len(layer.passes),
            )

    run_blocks(builder, blocks())


def run_kept(builder: Builder, layer: Passes, codes: Codes, choice: BlockChoice, results: Results) -> None:
    """`kept` tokens from codes in memory: for every column tile, some words of some tokens a block, read again."""
    # Sums do not depend on the order of passes, so those of a chunk of words stand together.
    chunks = [
        list(passes)
        for _, passes in groupby(sorted(layer.passes, key=lambda one: one.word), lambda one: one.word // choice.words)
    ]
    word_bytes = builder.preset.rows // 2

    def blocks() -> Iterator[CodeBlock]:
        for start in range(0, choice.kept, choice.tokens):
            count = min(choice.tokens, choice.kept - start)
            for tile in range(layer.columns):
                for number in range(len(chunks)):
                    yield block(start, count, tile, number)

    def block(start: int, count: int, tile: int, number: int) -> CodeBlock:
        passes = chunks[number]
        begin = passes[0].word // choice.words * choice.words
        words = min(choice.words, layer.words - begin)

        def feed(first: int, stop: int) -> None:
            address = codes.address + (start + first) * codes.pitch + begin * word_bytes
            read_words(builder, address, words, stop - first, codes.pitch)

        def step(place: int) -> None:
            first, last = number == place == 0, number == len(chunks) - 1 and place == len(passes) - 1
            if first:
                _write_tile(builder, results, tile, start, count)
            _run_pass(
                builder,
                layer,
                passes[place],
                tile,
                queries=count,
                first=first,
                last=last,
                release=place == len(passes) - 1,
                word=passes[place].word - begin,
                pitch=words,
            )

        beats = words * word_bytes // builder.beat
        steps = [partial(step, place) for place in range(len(passes))]
        return CodeBlock(words * count, count, beats, feed, steps, len(passes))

    run_blocks(builder, blocks())


def read_words(builder: Builder, address: int, words: int, tokens: int, pitch: int) -> None:
    """READ words of codes that lie side by side, of every token."""
    beats = words * builder.preset.rows // 2 // builder.beat
    builder.read_loops(Port.CODES, address, (beats, builder.beat), (tokens, pitch))


def lower_dense(builder: Builder, layer: QuantizedLayer, values: Values, results: Results) -> None:
    """A layer on tokens of values. What sends its results to another unit than memory, has been set before.

    Raises UserError for what the array or the encoder cannot hold.
    """
    preset = builder.preset
    passes = layer_passes(builder, layer)
    plan = plan_codes(layer.encoder, preset.lanes)
    size = LayerSize(
        name=layer.name,
        tokens=values.count,
        words=passes.words,
        passes=len(passes.passes),
        columns=passes.columns,
        load=passes.load,
        weight_bytes=sum(aligned(size) for _, size in passes.planes),
        value_cycles=values.cycles(preset),
        value_beats=values.addresses.shape[1],
    )
    choice = choose_blocks(preset, size, builder.near.room)
    copies = _copy_weights(builder, passes) if choice.weights_near else {}
    passes = replace(passes, passes=tuple(_moved(one, copies, passes.planes) for one in passes.passes))
    prepare_encoder(builder, plan)
    if not choice.kept:
        builder.route(Port.ENCODED)
        run_encoded(builder, passes, values, choice.tokens, results)
        builder.wait()
        builder.unroute(Port.ENCODED)
        for address in copies.values():
            builder.give_back(address)
        return
    for begin in range(0, values.count, choice.kept):
        count = min(choice.kept, values.count - begin)
        room = builder.take_near_first(count * plan.pitch)
        write_codes(builder, plan, values.part(begin, begin + count), room)
        builder.wait()
        part = replace(results, address=results.address + begin * results.pitch)
        run_kept(builder, passes, Codes(room, plan.pitch, plan.planes), replace(choice, kept=count), part)
        builder.wait()
        builder.give_back(room)


def _copy_weights(builder: Builder, layer: Passes) -> dict[int, int]:
    """Weights to near memory: address there by address here."""
    copies = {}
    for address, size in layer.planes:
        copies[address] = builder.near.take(size)
        builder.write_block(Port.COPIED, copies[address], size)
        builder.nests(Opcode.READ, Port.COPY, [(Nest(address, ((size // builder.beat, builder.beat),)), 0)])
    builder.wait()
    return copies


def _moved(one: Pass, copies: dict[int, int], planes: tuple[tuple[int, int], ...]) -> Pass:
    """A pass with its weights where they have been copied to."""
    for address, size in planes:
        if address in copies and address <= one.weights < address + size:
            return replace(one, weights=one.weights - address + copies[address])
    return one


def results_pitch(channels: int, preset: MachinePreset) -> int:
    """Bytes of a token of results: whole payloads."""
    return -(-channels // preset.columns) * preset.columns * 2
