"""Which part of a unit the cells of its netlist belong to."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Final

WEIGHTS: Final = {
    "LUT4": ("tables", 1),
    "CCU2C": ("carries", 2),
    "TRELLIS_DPR16X4": ("ram", 4),
    "TRELLIS_FF": ("ff", 1),
    "MULT18X18D": ("dsp", 1),
    "DP16KD": ("bram", 1),
}
"""Cells that are counted: under which name, and as how many. Tables, carries and distributed RAM are in units of
TRELLIS_COMB; packing adds those that the write ports of the RAM and the ends of carry chains take."""

LOGIC: Final = ("tables", "carries", "ram")


def cells_by_part(netlist: Path, depth: int) -> dict[str, Counter[str]]:
    """Cells by name as in WEIGHTS, of every part with any, the largest first.

    netlist: JSON of yosys, flattened; a cell's name begins with the submodules that it was in. depth: submodules below
    the unit that tell parts apart, at least 1; what lies directly in a part belongs to it. The harness has registers
    alone; some go by the name of the unit's port before which they stand.
    """
    cells = json.loads(netlist.read_text())["modules"]["top"]["cells"]
    parts: dict[str, Counter[str]] = {}
    for name, cell in cells.items():
        if cell["type"] in WEIGHTS:
            # The first submodule is the unit itself, the last name the cell's own; without any it is the harness's.
            path = name.split(".")[:-1]
            part = ".".join(path[1 : depth + 1]) or ("(itself)" if path else "(harness)")
            kind, weight = WEIGHTS[cell["type"]]
            parts.setdefault(part, Counter())[kind] += weight
    return dict(sorted(parts.items(), key=lambda item: -logic(item[1])))


def logic(cells: Mapping[str, int]) -> int:
    """Of a part, in units of TRELLIS_COMB."""
    return sum(cells.get(name, 0) for name in LOGIC)


def describe_parts(parts: Mapping[str, Mapping[str, int]]) -> str:
    """For people, a line per part."""
    names = [*LOGIC, "ff", "dsp", "bram"]
    lines = [f"  {'part':<32}{'logic':>8}" + "".join(f"{name:>8}" for name in names)]
    for part, cells in parts.items():
        lines.append(f"  {part:<32}{logic(cells):>8}" + "".join(f"{cells.get(name, 0):>8}" for name in names))
    return "\n".join(lines)
