"""Sizes of a multiply-accumulate array, checked once."""

from dataclasses import dataclass
from typing import Final

from hdl.parameters import require
from sim.contract.constants import CODES, PRODUCT_BITS, TILE_CHANNELS

ROWS: Final = (16, 32, 64)
"""Row counts that divide a K tile and keep the adder tree a power of two."""

TOKEN_DEPTH_MAX: Final = 512
"""Tokens whose accumulators fit one block RAM per column (512 words of 36 bits)."""

CODEBOOKS_MAX: Final = 32
"""Sweep programs of 64 steps that fit one block RAM (2048 words of 9 bits)."""

COLUMN_GROUPS_MAX: Final = 8
"""Hops of the broadcast: with more, a tile could be loaded faster than its scales reach the last group."""

CODE_BITS: Final = (CODES - 1).bit_length()
"""Width of an activation code."""


@dataclass(frozen=True)
class ArrayGeometry:
    """An array of `rows` x `columns` product tables: rows * columns multiply-accumulates per cycle.

    rows: K inputs per pass; 16, 32 or 64 (a K tile of 64 channels takes 64 / rows passes).
    columns: outputs computed side by side, 4..32, a multiple of column_group.
    loader_rows: rows of tables that the loader fills at once; divides rows. More is faster and larger.
    table_bits: signed width of a stored product; 8 holds every weight times every level.
    token_depth: tokens whose accumulators are kept, 1..512.
    codebooks: codebooks resident at once, 1..32.
    column_group: columns that share one broadcast register, so that columns / column_group <= 8 hops.

    Raises ValueError naming the parameter, its limit and the nearest valid value.
    """

    rows: int
    columns: int
    loader_rows: int
    table_bits: int = PRODUCT_BITS
    token_depth: int = TOKEN_DEPTH_MAX
    codebooks: int = 16
    column_group: int = 4

    def __post_init__(self) -> None:
        require("rows", self.rows, ROWS, f"one of {ROWS}")
        require("column_group", self.column_group, range(1, 33), "in 1..32")
        widths = [n for n in range(4, 33) if n % self.column_group == 0 and n // self.column_group <= COLUMN_GROUPS_MAX]
        require(
            "columns",
            self.columns,
            widths,
            f"in 4..32, a multiple of column_group={self.column_group}, of at most {COLUMN_GROUPS_MAX} groups",
        )
        divisors = [n for n in range(1, self.rows + 1) if self.rows % n == 0]
        require("loader_rows", self.loader_rows, divisors, f"a divisor of rows={self.rows}")
        require("table_bits", self.table_bits, range(PRODUCT_BITS, 13), f"in {PRODUCT_BITS}..12")
        require("token_depth", self.token_depth, range(1, TOKEN_DEPTH_MAX + 1), f"in 1..{TOKEN_DEPTH_MAX}")
        require("codebooks", self.codebooks, range(1, CODEBOOKS_MAX + 1), f"in 1..{CODEBOOKS_MAX}")

    @property
    def row_groups(self) -> int:
        """Groups of loader_rows rows, filled one after another."""
        return self.rows // self.loader_rows

    @property
    def column_groups(self) -> int:
        """Column groups, one broadcast hop apart."""
        return self.columns // self.column_group

    @property
    def passes(self) -> int:
        """Passes over the array per K tile of 64 channels."""
        return TILE_CHANNELS // self.rows

    @property
    def macs(self) -> int:
        """Multiply-accumulates per cycle."""
        return self.rows * self.columns

    @property
    def sum_bits(self) -> int:
        """Signed width of one column's sum over all rows."""
        return self.table_bits + (self.rows - 1).bit_length()


PRESETS: Final = {
    "tiny": ArrayGeometry(rows=16, columns=4, loader_rows=8, token_depth=64, codebooks=4, column_group=2),
    "small": ArrayGeometry(rows=32, columns=8, loader_rows=16),
    "full": ArrayGeometry(rows=64, columns=32, loader_rows=32),
}
"""Named geometries: `tiny` for simulation, `small` for a quick bitstream, `full` for the largest ECP5."""
