"""Dense layers: passes of 4 bits over blocks of codes.

Two ways. Codes of a block of tokens come from the encoder, and every column tile reads the block: the values are read
once, the weights once per block. Or codes are kept in memory, and every column tile reads them again in blocks of some
K tiles of many tokens: for long tokens, of which few fit the buffer. `sim.compiler.block_choice` chooses.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby, product

from sim.compiler.block_choice import BlockChoice, LayerSize, choose_blocks
from sim.compiler.builder import Builder
from sim.compiler.code_blocks import CodeBlock, Step, run_blocks
from sim.compiler.encode import Codes, Values, plan_codes, prepare_encoder, write_codes
from sim.compiler.memory import aligned
from sim.compiler.passes import Pass, Passes, array_command, copy_weights, from_copies, layer_passes
from sim.compiler.results import Results
from sim.compiler.shared_weights import SharedWeights, shared_unit
from sim.contract.layer import QuantizedLayer
from sim.machine.commands import Command
from sim.machine.ports import Port
from sim.machine.presets import MachinePreset
from sim.machine.settings import Phase


def _write_tile(builder: Builder, results: Results, tile: int, start: int, count: int) -> None:
    width = builder.preset.columns * 2
    for address, loops in results.spans(start, count):
        builder.write_loops(results.port, address + tile * width, (width // builder.beat, builder.beat), *loops)


class PassCommands:
    """Commands of the passes of a layer: the same for every block of as many tokens, so each is made once."""

    def __init__(self, builder: Builder, layer: Passes) -> None:
        self.builder, self.layer = builder, layer
        self._made: dict[tuple[object, ...], list[Command]] = {}

    def give(self, one: Pass, tile: int, **fields: int) -> None:
        """A command of the array and its operands."""
        key: tuple[Pass | int, ...] = (one, tile, *fields.values())
        if key not in self._made:
            self._made[key] = self.builder.recorded(partial(self._make, one, tile, fields))
        self.builder.commands += self._made[key]

    def _make(self, one: Pass, tile: int, fields: dict[str, int]) -> None:
        builder, layer = self.builder, self.layer
        array_command(builder, Phase.DENSE, codebook=one.codebook, **fields)
        builder.read_block(Port.SCALE, one.scale + tile * layer.scale_pitch, 1)
        if fields["first"]:
            builder.read_block(Port.BIAS, layer.bias + tile * layer.bias_pitch, 1)
        loads = builder.preset.rows // builder.preset.loader_rows
        builder.read_block(Port.WEIGHTS, one.weights + tile * layer.weight_pitch, loads)


def whole_steps(
    commands: PassCommands, results: Results, start: int, count: int, tiles: Sequence[int] | None = None
) -> list[Step]:
    """These column tiles (all) on a block that holds all codes of its tokens; the last of the layer gives it back."""
    layer = commands.layer

    def step(tile: int, number: int) -> None:
        first, last = number == 0, number == len(layer.passes) - 1
        if first:
            _write_tile(commands.builder, results, tile, start, count)
        commands.give(
            layer.passes[number],
            tile,
            queries=count,
            first=first,
            last=last,
            release=last and tile == layer.columns - 1,
            word=layer.passes[number].word,
            pitch=layer.words,
        )

    columns = range(layer.columns) if tiles is None else tiles
    return [partial(step, tile, number) for tile in columns for number in range(len(layer.passes))]


def run_encoded(commands: PassCommands, values: Values, block: int, results: Results) -> None:
    """All values in blocks of up to `block` tokens that the encoder fills."""
    builder, layer = commands.builder, commands.layer

    def blocks() -> Iterator[CodeBlock]:
        for start in range(0, values.count, block):
            count = min(block, values.count - start)
            yield CodeBlock(
                words=count * layer.words,
                tokens=count,
                beats=values.cycles(builder.preset),
                feed=partial(values.part(start, start + count).read, builder),
                steps=whole_steps(commands, results, start, count),
                period=len(layer.passes),
            )

    run_blocks(builder, blocks())


def _kept_passes(layer: Passes, words: int) -> list[list[Pass]]:
    """The passes of blocks of so many words of each token. Sums do not depend on the order of passes."""
    ordered = sorted(layer.passes, key=lambda one: one.word)
    return [list(passes) for _, passes in groupby(ordered, lambda one: one.word // words)]


def run_kept(
    commands: PassCommands,
    codes: Codes,
    choice: BlockChoice,
    results: Results,
    *,
    tiles: Sequence[int] | None = None,
    shared: SharedWeights | None = None,
) -> None:
    """`kept` tokens from codes in memory: for these column tiles (all) some words of some tokens a block, again.

    shared: where weights come to that passes share.
    """
    builder, layer = commands.builder, commands.layer
    chunks = _kept_passes(layer, choice.words)
    word_bytes = builder.preset.rows // 2
    columns = range(layer.columns) if tiles is None else tiles

    def blocks() -> Iterator[CodeBlock]:
        places = product(range(0, choice.kept, choice.tokens), columns, range(len(chunks)))
        for turn, (start, tile, number) in enumerate(places):
            yield block(start, min(choice.tokens, choice.kept - start), tile, number, turn % 2)

    def block(start: int, tokens: int, tile: int, number: int, half: int) -> CodeBlock:
        passes = chunks[number]
        begin = passes[0].word // choice.words * choice.words
        words = min(choice.words, layer.words - begin)

        def feed(first: int, stop: int) -> None:
            address = codes.address + (start + first) * codes.pitch + begin * word_bytes
            read_words(builder, address, words, stop - first, codes.pitch)
            if shared is not None:
                shared.bring(passes, tile, half, (first, stop, tokens))

        def step(place: int) -> None:
            first, last = number == place == 0, number == len(chunks) - 1 and place == len(passes) - 1
            if shared is not None and not place:
                builder.wait()
            if last:
                # Not before: a WAIT for weights would wait for results too.
                _write_tile(builder, results, tile, start, tokens)
            one = passes[place]
            commands.give(
                one if shared is None else shared.moved(one, passes, tile, half),
                tile,
                queries=tokens,
                first=first,
                last=last,
                release=place == len(passes) - 1,
                word=one.word - begin,
                pitch=words,
            )

        beats = words * word_bytes // builder.beat
        steps = [partial(step, place) for place in range(len(passes))]
        return CodeBlock(words * tokens, tokens, beats, feed, steps, len(passes))

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
    held = all(builder.near_constants.place(address) != address for address, _ in passes.planes)
    size = LayerSize(
        name=layer.name,
        tokens=values.count,
        words=passes.words,
        shared=None if held else shared_unit(layer, preset),
        passes=len(passes.passes),
        columns=passes.columns,
        load=passes.load,
        weight_bytes=0 if held else sum(aligned(size) for _, size in passes.planes),
        value_cycles=values.cycles(preset),
        value_beats=values.addresses.shape[1],
    )
    choice = choose_blocks(preset, size, builder.near.room)
    copies = copy_weights(builder, passes) if choice.weights_near and not held else {}
    passes = replace(passes, passes=tuple(from_copies(one, copies, passes.planes) for one in passes.passes))
    commands = PassCommands(builder, passes)
    prepare_encoder(builder, plan)
    if not choice.kept:
        builder.route(Port.ENCODED)
        run_encoded(commands, values, choice.tokens, results)
        builder.wait()
        builder.unroute(Port.ENCODED)
        for address in copies.values():
            builder.give_back(address)
        return
    shared = SharedWeights.room(builder, passes, size.shared, choice.words, spare=aligned(choice.kept * plan.pitch))
    for begin in range(0, values.count, choice.kept):
        count = min(choice.kept, values.count - begin)
        room = builder.take_near_first(count * plan.pitch)
        write_codes(builder, plan, values.part(begin, begin + count), room)
        builder.wait()
        codes = Codes(room, plan.pitch, plan.planes)
        run_kept(commands, codes, replace(choice, kept=count), results.behind(begin), shared=shared)
        builder.wait()
        builder.give_back(room)
    if shared is not None:
        builder.give_back(shared.address)


def results_pitch(channels: int, preset: MachinePreset) -> int:
    """Bytes of a token of results: whole payloads."""
    return -(-channels // preset.columns) * preset.columns * 2
