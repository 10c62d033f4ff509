"""Sizes of an attention unit, checked once, and the layouts of its streams."""

from dataclasses import dataclass
from typing import Final

from amaranth.hdl import unsigned
from amaranth.lib import data

from hdl.array.geometry import CODE_BITS, ArrayGeometry
from hdl.parameters import require
from hdl.softmax.geometry import LANES, SoftmaxGeometry
from sim.contract.attention import MAX_HEAD_CHANNELS, MAX_KEYS

SCORE_PLANES_MAX: Final = 3
"""Nibbles of a level of P."""

STREAMED_PLANES_MAX: Final = 3
"""RUNs on one LOAD: nibbles of P, or the diagonals of two nibbles of q and two of k side by side."""

BUFFER_WORDS_MAX: Final = 1 << 16

BLOCK_WORDS: Final = tuple(1 << bits for bits in range(1, BUFFER_WORDS_MAX.bit_length()))

BEATS: Final = (1, 2, 4)
"""Of a word of streamed codes."""


def read_layout(block_words: int, token_depth: int) -> data.StructLayout:
    """A read of streamed codes, of a command or of one of its RUNs: hdl.attention.code_buffer."""
    word = range(block_words)
    return data.StructLayout({"queries": range(token_depth + 1), "word": word, "pitch": word, "release": unsigned(1)})


def require_code_words(rows: int, code_beat_bits: int, block_words: int) -> None:
    """Raise ValueError where words of `rows` codes cannot come in such beats, or a block cannot have so many."""
    bits = [rows * CODE_BITS // beats for beats in BEATS if rows * CODE_BITS % (8 * beats) == 0]
    require("code_beat_bits", code_beat_bits, bits, f"whole bytes, and a word of rows={rows} codes 1, 2 or 4 of them")
    require("block_words", block_words, BLOCK_WORDS, f"a power of two in 2..{BUFFER_WORDS_MAX}")


@dataclass(frozen=True, kw_only=True)
class AttentionGeometry:
    """An attention unit around an array.

    array: rows and columns of the array; `columns` and `rows` must be multiples of `lanes`. lanes: keys per cycle of
    the softmax. keys: most keys of a row. logit_words: words of `columns` logits in the reorder buffer; a command needs
    queries * ceil(keys / columns). code_words: words of `rows` codes of P in either half of the code gather; a command
    needs queries * ceil(keys / rows). block_words: words of `rows` codes in either half of the buffer of streamed
    codes. code_beat_bits: of the beats in which these come. score_planes: nibbles of a level of P, 1..3. bias: 1 with a
    stream of position biases.
    Raises ValueError naming the parameter, its limit and the nearest valid value.
    """

    array: ArrayGeometry
    lanes: int = 8
    keys: int = MAX_KEYS
    logit_words: int = 2048
    code_words: int = 1024
    block_words: int = 1024
    code_beat_bits: int = 64
    score_planes: int = 2
    bias: int = 1

    def __post_init__(self) -> None:
        array = self.array
        lanes = [n for n in LANES if array.columns % n == 0 and array.rows % n == 0]
        require("lanes", self.lanes, lanes, f"a power of two that divides columns={array.columns}, rows={array.rows}")
        require("keys", self.keys, range(1, MAX_KEYS + 1), f"in 1..{MAX_KEYS}")
        for name, words in (("logit_words", self.logit_words), ("code_words", self.code_words)):
            require(name, words, range(1, BUFFER_WORDS_MAX + 1), f"in 1..{BUFFER_WORDS_MAX}")
        require_code_words(array.rows, self.code_beat_bits, self.block_words)
        require("score_planes", self.score_planes, range(1, SCORE_PLANES_MAX + 1), f"in 1..{SCORE_PLANES_MAX}")
        require("bias", self.bias, (0, 1), "0 or 1")

    @property
    def softmax(self) -> SoftmaxGeometry:
        """Sizes of the softmax: codes of 4 bits, the ones that the array looks up."""
        return SoftmaxGeometry(lanes=self.lanes, keys=self.keys, code_bits=CODE_BITS, bias=self.bias)

    @property
    def key_columns(self) -> int:
        """Column tiles of the longest row."""
        return -(-self.keys // self.array.columns)

    @property
    def key_rows(self) -> int:
        """Row tiles of the longest row."""
        return -(-self.keys // self.array.rows)

    @property
    def shape_layout(self) -> data.StructLayout:
        """A set of rows on its way through the reorder buffer: queries >= 1, keys >= 1, column tiles of the keys."""
        return data.StructLayout(
            {
                "queries": range(self.array.token_depth + 1),
                "keys": range(self.keys + 1),
                "tiles": range(self.key_columns + 1),
            }
        )

    @property
    def command_layout(self) -> data.StructLayout:
        """A command: four nested loops of LOADs and RUNs (see hdl.attention.attention).

        first: sums start from the bias, else they go on from those of the command before. last: results leave, else
        sums stay. Both are 1 but in DENSE. split: every RUN of SCORES has its own tables, else a plane shares them.
        word, pitch, release: which words of streamed codes SCORES and DENSE read (see hdl.attention.code_reads).
        """
        tiles = max(self.key_columns, -(-MAX_HEAD_CHANNELS // self.array.columns))
        groups = max(self.key_rows, -(-MAX_HEAD_CHANNELS // self.array.rows))
        return data.StructLayout(
            {
                "phase": unsigned(2),
                "codebook": range(self.array.codebooks),
                "queries": range(self.array.token_depth + 1),
                "keys": range(self.keys + 1),
                "tiles": range(tiles + 1),
                "groups": range(groups + 1),
                "planes": range(3),
                "runs": range(STREAMED_PLANES_MAX + 1),
                "first": unsigned(1),
                "last": unsigned(1),
                "split": unsigned(1),
                **read_layout(self.block_words, self.array.token_depth).members,
            }
        )

    @property
    def level_layout(self) -> data.StructLayout:
        """The level of a code of P as nibbles, in the order in which RUNs take them: the high one first."""
        nibbles = data.ArrayLayout(unsigned(CODE_BITS), self.score_planes)
        return data.StructLayout({"code": unsigned(CODE_BITS), "nibbles": nibbles})
