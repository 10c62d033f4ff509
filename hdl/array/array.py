"""The array: product tables and adder trees of all columns, and the loader that fills the tables."""

from typing import Any

import numpy as np
from amaranth.hdl import Elaboratable, Module, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from numpy.typing import NDArray

from hdl.array.adder_tree import AdderTree
from hdl.array.geometry import CODE_BITS, ArrayGeometry
from hdl.array.loader import TableLoader, codebook_word_layout, weights_layout
from hdl.array.product_table import ProductTables
from hdl.array.sweep import EARLY
from hdl.pipeline import chain, delay


class Array(wiring.Component):
    """sums[column] = sum over rows of table[row][column][codes[row]], a full set of sums every cycle.

    Codes are registered once per column group, each register fed by its neighbour's, so no net crosses the die.
    Codes on `codes` in cycle t give the sums of column group j in cycle t + latency + j, with `latency(geometry)` =
    EARLY + 2 + log2(rows) (EARLY: see sim.machine.sweep; code register, product register, tree). The skew of j cycles
    is taken out where it costs nothing: in the output FIFO, whose write pointers travel along with the groups.

    Loading: see TableLoader. A load may start in the cycle after the last codes of the old tile; codes of the
    new tile may follow from the 3rd cycle with o_busy = 0 on (o_busy falls early for that reason).
    """

    def __init__(self, geometry: ArrayGeometry) -> None:
        self._geometry = geometry
        super().__init__(
            {
                "i_load": In(stream.Signature(range(geometry.codebooks))),
                "i_codebook": In(stream.Signature(codebook_word_layout(geometry))),
                "i_weights": In(stream.Signature(weights_layout(geometry))),
                "o_busy": Out(1),
                "codes": In(data.ArrayLayout(unsigned(CODE_BITS), geometry.rows)),
                "sums": Out(data.ArrayLayout(signed(geometry.sum_bits), geometry.columns)),
            }
        )

    @staticmethod
    def latency(geometry: ArrayGeometry) -> int:
        """Cycles from codes to the sums of column group 0."""
        return EARLY + 2 + (geometry.rows - 1).bit_length()

    @staticmethod
    def model(
        codes: NDArray[np.integer], weights: NDArray[np.integer], levels: NDArray[np.integer]
    ) -> NDArray[np.int64]:
        """Sums int64 (tokens, columns) for codes (tokens, rows), weights (rows, columns) and 16 levels."""
        return np.asarray(levels, np.int64)[codes] @ np.asarray(weights, np.int64)

    def elaborate(self, platform: Any) -> Elaboratable:
        """Loader, then tables and trees group by group."""
        m = Module()
        geometry = self._geometry
        m.submodules.loader = loader = TableLoader(geometry)
        wiring.connect(m, wiring.flipped(self.i_load), loader.i)
        wiring.connect(m, wiring.flipped(self.i_codebook), loader.i_codebook)
        wiring.connect(m, wiring.flipped(self.i_weights), loader.i_weights)
        m.d.comb += self.o_busy.eq(loader.o_busy)
        hops = chain(m, delay(m, self.codes, EARLY, "early"), geometry.column_groups, "codes")
        for group in range(geometry.column_groups):
            tables = ProductTables(
                rows=geometry.rows,
                columns=geometry.column_group,
                loader_rows=geometry.loader_rows,
                table_bits=geometry.table_bits,
            )
            m.submodules[f"tables{group}"] = tables
            m.d.comb += [tables.codes.eq(hops[group + 1]), tables.write.eq(loader.writes[group])]
            for lane in range(geometry.column_group):
                column = group * geometry.column_group + lane
                m.submodules[f"tree{column}"] = tree = AdderTree(inputs=geometry.rows, width=geometry.table_bits)
                m.d.comb += [tree.i[row].eq(tables.products[row][lane]) for row in range(geometry.rows)]
                m.d.comb += self.sums[column].eq(tree.o)
        return m
