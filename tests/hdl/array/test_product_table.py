# amaranth: UnusedElaboratable=no

"""Product tables: every weight times every level through the RAM, and writes that hit only their group."""

from typing import Any

import numpy as np
import pytest
from amaranth.sim import Simulator

from hdl.array.product_table import ProductTables
from sim.contract.constants import WEIGHT_MAX, WEIGHT_MIN

WEIGHTS = list(range(WEIGHT_MIN, WEIGHT_MAX + 1))


def test_every_product_of_a_weight_and_a_level() -> None:
    rows, columns, loader_rows = 4, 4, 2
    dut = ProductTables(rows=rows, columns=columns, loader_rows=loader_rows)
    weights = np.array(WEIGHTS).reshape(rows, columns)

    async def bench(ctx: Any) -> None:
        for first in (-15, 0):  # levels -15..0 and 0..15: all 31 of them
            levels = np.arange(first, first + 16)
            tables = weights[:, :, None] * levels
            for code in range(16):
                for group in range(rows // loader_rows):
                    lanes = tables[group * loader_rows : (group + 1) * loader_rows, :, code]
                    ctx.set(dut.write, {"enable": 1 << group, "code": code, "products": lanes.tolist()})
                    await ctx.tick()
            ctx.set(dut.write, {"enable": 0, "code": 3, "products": [[-1] * columns] * loader_rows})
            for shift in range(16):
                codes = [(shift + 5 * row) % 16 for row in range(rows)]
                ctx.set(dut.codes, codes)
                await ctx.tick()
                assert [list(row) for row in ctx.get(dut.products)] == ProductTables.model(tables, codes)

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


@pytest.mark.parametrize(
    ("parameters", "nearest"),
    [
        ({"rows": 0}, 1),
        ({"columns": 0}, 1),
        ({"loader_rows": 3}, 2),
        ({"table_bits": 7}, 8),
    ],
)
def test_bad_parameters(parameters: dict[str, int], nearest: int) -> None:
    with pytest.raises(ValueError, match=rf"nearest valid.* {nearest}$"):
        ProductTables(**({"rows": 4, "columns": 4, "loader_rows": 2} | parameters))
