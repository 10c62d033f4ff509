"""Sweep programs: how a running adder visits every level of a codebook without a multiplier.

A running adder per weight starts at 0 and adds or subtracts the weight once per step, so after k additions it
holds weight * k. The program says, for each step, what the adder does and which code's table entry is written
with the product it then holds. Any codebook works: the program is data.

One step, from bit 0 upwards: the code whose entry is written (4 bits), then one bit each for write, clear, advance,
subtract and last.
"""

from typing import Final

from numpy.typing import ArrayLike

from sim.contract.codebook import check_levels
from sim.contract.constants import CODES, LEVEL_MAX

STEPS_PER_CODEBOOK: Final = 64
"""Words reserved per codebook; the longest program (levels -15, 15 and fourteen duplicates) has 46 steps."""

WRITE: Final = 1 << 4
"""Write the product as it is after this step."""
CLEAR: Final = 1 << 5
"""Adder := 0 (goes before ADVANCE)."""
ADVANCE: Final = 1 << 6
"""Adder := adder + weight, or - weight."""
SUBTRACT: Final = 1 << 7
"""With ADVANCE: subtract."""
LAST: Final = 1 << 8
"""The program ends with this step."""

STEP_BITS: Final = 9
"""Width of an encoded step."""

EARLY: Final = 4
"""Cycles by which codes are delayed in front of the tables (hdl.array.array). A LOAD is over as many cycles before the
tables would allow new codes: codes of the next RUN, and writes of the next LOAD, set out while what is before them is
on its way. Beyond 5 the first write of a LOAD would overtake the last codes before it."""


def sweep_program(levels: ArrayLike) -> list[int]:
    """Encoded steps that fill a product table for the 16 integer `levels` in [-15, 15].

    Clears, climbs to the highest level, clears again and descends to the lowest, writing each code when the
    adder passes its level; codes that share a level take one more step each. Length: `sweep_steps(levels)`,
    17 for the uniform codebook, 16..46 for any. The first step always clears, which is when the loader takes
    new weights. Raises UserError when `levels` is not a codebook.
    """
    codes_of: dict[int, list[int]] = {}
    for code, level in enumerate(check_levels(levels).tolist()):
        codes_of.setdefault(level, []).append(code)
    program: list[int] = []

    def visit(level: int, move: int) -> None:
        codes = codes_of.get(level, [])
        program.append((codes[0] | WRITE if codes else 0) | move)
        program.extend(code | WRITE for code in codes[1:])

    visit(0, CLEAR)
    for level in range(1, max(codes_of) + 1):
        visit(level, ADVANCE)
    if min(codes_of) < 0:
        program.append(CLEAR)
        for level in range(-1, min(codes_of) - 1, -1):
            visit(level, ADVANCE | SUBTRACT)
    program[-1] |= LAST
    return program


def sweep_steps(levels: ArrayLike) -> int:
    """Steps of `sweep_program(levels)`:

    1 + max(highest, 0) + (1 - lowest if lowest < 0 else 0) + duplicates, where duplicates = 16 - distinct levels.
    """
    values = check_levels(levels).tolist()
    highest, lowest = max(values), min(values)
    descent = 1 - lowest if lowest < 0 else 0
    return 1 + max(highest, 0) + descent + CODES - len(set(values))


def run_program(program: list[int], weight: int) -> list[int]:
    """What a table holds for `weight` after the program, 16 products by code; the reference of the loader.

    Entries that the program never writes are 0. For weight 1 these are the codebook's levels.
    """
    table = [0] * CODES
    product = 0
    for step in program:
        if step & CLEAR:
            product = 0
        elif step & ADVANCE:
            product += -weight if step & SUBTRACT else weight
        if step & WRITE:
            table[step & (CODES - 1)] = product
        if step & LAST:
            break
    return table


def load_cycles(row_groups: int, levels: ArrayLike) -> int:
    """Cycles from a LOAD to the RUN behind it, operands never late; row_groups: transfers of weights."""
    return row_groups * sweep_steps(levels) + 3 - EARLY


LONGEST_PROGRAM: Final = sweep_steps([LEVEL_MAX, *[-LEVEL_MAX] * (CODES - 1)])
"""Steps of the worst codebook: both ends of the range and nothing but duplicates."""
