"""Sizes of a softmax unit, checked once."""

from dataclasses import dataclass
from typing import Final

from amaranth.hdl import signed, unsigned
from amaranth.lib import data

from hdl.ecp5.block_memory import BlockMemory
from hdl.parameters import require
from sim.contract.attention import MAX_KEYS
from sim.contract.constants import WIDE_BITS
from sim.contract.softmax import EXP2_FRACTION_BITS, GUARD_BITS, LARGEST_DISTANCE, LOG_FRACTION_BITS

LANES: Final = (1, 2, 4, 8, 16, 32)
"""Keys per cycle: powers of two keep the trees over them balanced."""

CODE_BITS: Final = (4, 5, 6, 8)
"""Widths of a code of a probability; the contract has 15, 31, 63 or 255 thresholds."""

BIAS_BITS: Final = WIDE_BITS + 1
"""A position bias: one wide number, or the sum of two (rows and columns)."""

LOGIT_BITS: Final = BIAS_BITS + 1
"""A product and its bias: from -3 * 2**15 up to, but not including, 3 * 2**15."""

OFFSET: Final = 1 << (LOGIT_BITS - 1)
"""Added to every logit on the way in. An unsigned comparison takes one carry chain, a signed one two; and 0 is left for
a lane without a key. No logit comes near it: it is never the maximum of a row that has a key, and more than
LARGEST_DISTANCE below any, so its term is zero."""

DISTANCE_BITS: Final = LARGEST_DISTANCE.bit_length()
TERM_BITS: Final = EXP2_FRACTION_BITS + GUARD_BITS + 1
"""The term of a largest key is 2**23."""

SCORE_BITS: Final = 15
"""-log2 of a probability: LARGEST_DISTANCE and log2 of 4,096 terms stay below 2**15."""

ROWS_UNDER_WAY: Final = 32
"""Rows, and words of codes, that a queue between two phases holds: more than there are stages between promise and
release, so that rows of a single word follow each other without a gap."""

SLACK: Final = 20
"""Words beyond the longest row, and the levels of a tree, that a row memory needs: those under way from one phase to
the next."""


@dataclass(frozen=True, kw_only=True)
class SoftmaxGeometry:
    """A softmax of `lanes` keys per cycle over rows of up to `keys` keys.

    lanes: 1, 2, 4, 8, 16 or 32. keys: 1..4096, which sets the size of the row memories and of the sum. code_bits: 4, 5,
    6 or 8. bias: 1 with a stream of position biases, 0 without.
    Raises ValueError naming the parameter, its limit and the nearest valid value.
    """

    lanes: int = 4
    keys: int = MAX_KEYS
    code_bits: int = 4
    bias: int = 1

    def __post_init__(self) -> None:
        require("lanes", self.lanes, LANES, f"one of {LANES}")
        require("keys", self.keys, range(1, MAX_KEYS + 1), f"in 1..{MAX_KEYS}")
        require("code_bits", self.code_bits, CODE_BITS, f"one of {CODE_BITS}")
        require("bias", self.bias, (0, 1), "0 or 1")

    def words(self, keys: int) -> int:
        """Words of `lanes` keys in a row of so many keys: ceil(keys / lanes)."""
        return -(-keys // self.lanes)

    @property
    def row_words(self) -> int:
        """Words in the longest row."""
        return self.words(self.keys)

    @property
    def tree_levels(self) -> int:
        """Levels of a tree over the lanes."""
        return (self.lanes - 1).bit_length()

    @property
    def depth(self) -> int:
        """Words in a row memory: a power of two with room for the longest row and for what is under way."""
        return 1 << (self.row_words + self.tree_levels + SLACK - 1).bit_length()

    @property
    def memory_latency(self) -> int:
        """Cycles from an address of a row memory to its word: of both, as depths that are powers of two decide it."""
        return BlockMemory.latency(width=self.lanes * LOGIT_BITS, depth=self.depth)

    @property
    def sum_bits(self) -> int:
        """Width of the sum of a row's terms, unsigned."""
        return TERM_BITS + (self.keys - 1).bit_length()

    @property
    def log_bits(self) -> int:
        """Width of log2 of the sum, unsigned: LOG2 reaches one whole."""
        return ((self.sum_bits - TERM_BITS + 1) << LOG_FRACTION_BITS).bit_length()

    @property
    def logits_layout(self) -> data.StructLayout:
        """One word of a row, its bias apart."""
        return data.StructLayout(
            {
                "logit": data.ArrayLayout(signed(WIDE_BITS), self.lanes),
                "present": unsigned(self.lanes),  # bit k: lane k holds a key
                "last": unsigned(1),  # of its row
            }
        )

    @property
    def codes_layout(self) -> data.StructLayout:
        """One word of codes."""
        return data.StructLayout({"code": data.ArrayLayout(unsigned(self.code_bits), self.lanes), "last": unsigned(1)})

    @property
    def threshold_layout(self) -> data.StructLayout:
        """The threshold at which `code` begins."""
        return data.StructLayout({"code": unsigned(self.code_bits), "threshold": unsigned(SCORE_BITS)})
