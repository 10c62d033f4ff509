# amaranth: UnusedElaboratable=no

"""The preset that is meant for one LFE5U-85F asks for no more block RAMs and multipliers than it has."""

from collections import Counter
from typing import Any

from amaranth.hdl import Fragment, Instance

from hdl.ecp5.platform import Ecp5Target
from hdl.machine.machine import Machine
from sim.machine.presets import PRESETS

LFE5U_85F = {"DP16KD": 208, "MULT18X18D": 156}


def count_cells(fragment: Any, cells: Counter[str]) -> None:
    if isinstance(fragment, Instance):
        cells[fragment.type] += 1
    for part, *_ in fragment.subfragments:
        count_cells(part, cells)


def test_fit85_asks_for_no_more_than_the_device_has() -> None:
    cells: Counter[str] = Counter()
    count_cells(Fragment.get(Machine(PRESETS["fit85"]), Ecp5Target()), cells)
    assert {kind: cells[kind] for kind, available in LFE5U_85F.items() if not 0 < cells[kind] <= available} == {}
