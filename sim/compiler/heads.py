"""Heads of an attention on the array: which of its rows hold their channels, and with which codebooks q is streamed."""

from dataclasses import dataclass

from sim.compiler.builder import Levels
from sim.contract.attention import Attention
from sim.contract.constants import TILE_CHANNELS
from sim.contract.errors import UserError
from sim.contract.layer import level_codebooks
from sim.machine.presets import MachinePreset


@dataclass(frozen=True)
class RowSet:
    """A head of a window with the queries first..first + queries."""

    window: int
    head: int
    first: int
    queries: int


def queries_of_set(preset: MachinePreset, tokens: int, words: int) -> int:
    """Most rows of `tokens` keys that the buffers take at a time, q being `words` words of a token; 0 for none."""
    return min(
        preset.logit_words // -(-tokens // preset.columns),
        preset.code_words // -(-tokens // preset.rows),
        preset.block_words // words,
        preset.token_depth,
    )


@dataclass(frozen=True)
class Heads:
    """Of an array of `rows` rows."""

    attention: Attention
    rows: int

    @property
    def width(self) -> int:
        """Channels of a head."""
        return self.attention.q.channels // self.attention.heads

    def row_blocks(self, head: int) -> range:
        """Blocks of `rows` channels that hold channels of a head, counted through all channels."""
        return range(head * self.width // self.rows, -(-(head + 1) * self.width // self.rows))

    @property
    def words(self) -> int:
        """Words of a token's q that a head takes, at most."""
        return max(len(self.books(head)) * len(self.row_blocks(head)) for head in range(self.attention.heads))

    def books(self, head: int) -> list[Levels]:
        """Codebooks of the streamed nibbles of q, the high one first. Raises UserError for several level sets."""
        tiles = range(head * self.width // TILE_CHANNELS, -(-(head + 1) * self.width // TILE_CHANNELS))
        sets = [level_codebooks(self.attention.q.tile_levels(tile)) for tile in tiles]
        books = [[tuple(levels.tolist()) for levels in one] for one in sets]
        if any(one != books[0] for one in books):
            raise UserError(f"{self.attention.name}: a head's channels of q have several level sets; export it again")
        return books[0]
