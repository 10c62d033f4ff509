"""Product tables: a 4-bit code addresses the sixteen products of a weight that stays put."""

from typing import Any

from amaranth.hdl import Elaboratable, Module, Signal, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hdl.array.geometry import CODE_BITS
from hdl.ecp5.distributed_ram import DistributedRam
from sim.contract.constants import PRODUCT_BITS


def table_write_layout(*, rows: int, columns: int, loader_rows: int, table_bits: int) -> data.StructLayout:
    """What writes one entry of loader_rows * columns tables: enable is one-hot over the rows / loader_rows groups."""
    return data.StructLayout(
        {
            "enable": unsigned(rows // loader_rows),
            "code": unsigned(CODE_BITS),
            "products": data.ArrayLayout(data.ArrayLayout(signed(table_bits), columns), loader_rows),
        }
    )


class ProductTables(wiring.Component):
    """rows x columns tables of sixteen products; a multiplication is one asynchronous read.

    codes[row] addresses the tables of that row in all columns; products[row][column] follows `LATENCY` = 1 cycle
    later, every cycle. `write` stores products[r][column] of the loader at entry `code` of the tables of rows
    group * loader_rows + r for every group whose bit in `enable` is set; codes sampled in a later cycle see it.

    The tables of one row share code, entry and enable, so they are one memory columns * table_bits wide:
    distributed RAM, table_bits / 4 TRELLIS_DPR16X4 cells per table.
    Raises ValueError when loader_rows does not divide rows or a size is not positive.
    """

    LATENCY = 1

    def __init__(self, *, rows: int, columns: int, loader_rows: int, table_bits: int = PRODUCT_BITS) -> None:
        for name, value in (("rows", rows), ("columns", columns), ("loader_rows", loader_rows)):
            if value < 1:
                raise ValueError(f"{name}={value} must be at least 1; nearest valid value: 1")
        if rows % loader_rows:
            nearest = max(n for n in range(1, min(loader_rows, rows) + 1) if rows % n == 0)
            raise ValueError(f"loader_rows={loader_rows} must divide rows={rows}; nearest valid value: {nearest}")
        if table_bits < PRODUCT_BITS:
            raise ValueError(f"table_bits={table_bits} must be at least {PRODUCT_BITS}; nearest valid: {PRODUCT_BITS}")
        self._rows, self._columns, self._loader_rows, self._table_bits = rows, columns, loader_rows, table_bits
        super().__init__(
            {
                "codes": In(data.ArrayLayout(unsigned(CODE_BITS), rows)),
                "write": In(
                    table_write_layout(rows=rows, columns=columns, loader_rows=loader_rows, table_bits=table_bits)
                ),
                "products": Out(data.ArrayLayout(data.ArrayLayout(signed(table_bits), columns), rows)),
            }
        )

    @staticmethod
    def model(tables: Any, codes: list[int]) -> list[list[int]]:
        """products[row][column] for tables[row][column][code] and one code per row."""
        return [[int(table[code]) for table in row] for row, code in zip(tables, codes, strict=True)]

    def elaborate(self, platform: Any) -> Elaboratable:
        """One distributed memory per row, and a register behind it."""
        m = Module()
        row_layout = data.ArrayLayout(signed(self._table_bits), self._columns)
        for row in range(self._rows):
            m.submodules[f"row{row}"] = tables = DistributedRam(width=row_layout.size)
            products = Signal(row_layout, name=f"products{row}", reset_less=True)
            group, lane = divmod(row, self._loader_rows)
            m.d.comb += [
                tables.read_address.eq(self.codes[row]),
                tables.write_address.eq(self.write.code),
                tables.write_enable.eq(self.write.enable[group]),
                tables.write_data.eq(self.write.products[lane].as_value()),
                self.products[row].eq(products),
            ]
            m.d.sync += products.as_value().eq(tables.read_data)
        return m
