"""How a dense layer uses the buffer of codes: by a cost in cycles.

Per pass the array takes a LOAD and a cycle for each token; the reader, which is one for all ports, takes the operands'
beats, the three commands' and what fills the next block. A beat of external memory counts for more than a cycle, since
other memories than one on the chip are slower.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from sim.compiler.estimate import EXTERNAL_CYCLES
from sim.compiler.memory import aligned
from sim.compiler.shared_weights import SharedUnit
from sim.contract.errors import UserError
from sim.machine.commands import COMMAND_BYTES
from sim.machine.presets import MachinePreset


@dataclass(frozen=True)
class LayerSize:
    """Of a dense layer. words: of codes of a token. passes: of a column tile. columns: column tiles. load: cycles of a
    LOAD. weight_bytes: all of its weights. value_cycles: of the reader for the values of a token; value_beats: of
    memory. shared: of weights that are all those of two passes and come near by the block of codes; None where they do
    not."""

    name: str
    tokens: int
    words: int
    passes: int
    columns: int
    load: int
    weight_bytes: int
    value_cycles: int
    value_beats: int
    shared: SharedUnit | None = None


@dataclass(frozen=True)
class BlockChoice:
    """tokens and words of each that a block holds. kept: tokens whose codes are in memory at a time; 0: none, the
    encoder fills the blocks, and all words of a token are in one. weights_near: copied to near memory first."""

    tokens: int
    words: int
    kept: int = 0
    weights_near: bool = False


def operand_beats(preset: MachinePreset) -> int:
    """Beats of a pass: weights, a scale, and three commands."""
    return -(-(preset.pass_bytes + preset.columns * 2 + 3 * COMMAND_BYTES) // preset.beat_bytes)


def _cost(preset: MachinePreset, size: LayerSize, choice: BlockChoice, codes_near: bool) -> float:
    runs = -(-size.tokens // choice.tokens) * size.columns * size.passes
    operands = runs * operand_beats(preset)
    array = runs * size.load + size.tokens * size.columns * size.passes
    value_cycles, value_beats = size.tokens * size.value_cycles, size.tokens * size.value_beats
    results = size.tokens * size.columns * preset.columns * 2 // preset.beat_bytes
    external = operands + value_beats + results
    if choice.kept and size.shared:
        external -= runs // 2 * preset.pass_bytes // preset.beat_bytes
    if choice.weights_near:
        external -= runs * preset.pass_bytes // preset.beat_bytes
        external += size.weight_bytes // preset.beat_bytes
    if not choice.kept:
        return max(array, operands + value_cycles, EXTERNAL_CYCLES * external)
    codes = size.tokens * size.words * preset.rows // 2 // preset.beat_bytes
    again = codes * size.columns
    external += 0 if codes_near else codes + again
    # Codes are written before the array begins.
    return max(value_cycles, codes) + max(array, operands + again, EXTERNAL_CYCLES * external)


def kept_blocks(preset: MachinePreset, tokens: int, words: int, shared: SharedUnit | None = None) -> BlockChoice:
    """Blocks of as many of these tokens as the array takes, from codes of so many words in memory.

    shared: blocks hold whole K tiles, and there is an even number of them, since rooms for their weights take turns.
    """
    count = min(preset.token_depth, tokens, preset.block_words)
    fitting = min(words, preset.block_words // count)
    if shared and fitting > shared.words:
        unit, tiles = shared.words, range(fitting // shared.words, 0, -1)
        fitting = unit * next((one for one in tiles if -(-words // (one * unit)) % 2 == 0), tiles[0])
    return BlockChoice(count, fitting, count)


def _kept(preset: MachinePreset, size: LayerSize, near_room: int) -> Iterator[tuple[BlockChoice, bool]]:
    pitch = aligned(size.words * preset.rows // 2)
    for limit, near in ((preset.token_depth, False), (near_room // pitch, True)):
        if not limit:
            continue
        choice = kept_blocks(preset, min(limit, size.tokens), size.words, size.shared)
        left = near_room - (size.shared.rooms(choice.words) if size.shared else 0)
        if near and 0 < left // pitch < choice.kept:
            # Room for weights, too: fewer tokens in blocks of as many words.
            choice = replace(choice, kept=left // pitch, tokens=min(choice.tokens, left // pitch))
        yield choice, near


def choose_blocks(preset: MachinePreset, size: LayerSize, near_room: int) -> BlockChoice:
    """The cheapest way, for a layer that may keep codes or weights in so many bytes of near memory.

    Raises UserError when a word of codes is no whole number of beats.
    """
    if preset.rows // 2 % preset.beat_bytes:
        raise UserError(
            f"{size.name}: codes of a pass are less than a beat in preset {preset.name}; it needs more rows"
        )
    ways = list(_kept(preset, size, near_room))
    fitting = min(preset.token_depth, preset.block_words // size.words, size.tokens)
    if fitting:
        near = fitting < size.tokens and size.weight_bytes <= near_room
        ways.insert(0, (BlockChoice(fitting, size.words, weights_near=near), False))
    return min(ways, key=lambda way: _cost(preset, size, *way))[0]
