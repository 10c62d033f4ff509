"""Sweep programs: how a running adder visits every level of a codebook without a multiplier.

A running adder per weight starts at 0 and adds or subtracts the weight once per step, so after k additions it
holds weight * k. The program says, for each step, what the adder does and which code's table entry is written
with the product it then holds. Any codebook works: the program is data.
"""

from typing import Final

from amaranth.hdl import unsigned
from amaranth.lib import data
from numpy.typing import ArrayLike

from hdl.array.geometry import CODE_BITS
from sim.contract.codebook import check_levels
from sim.contract.constants import CODES, LEVEL_MAX

STEPS_PER_CODEBOOK: Final = 64
"""Words reserved per codebook; the longest program (levels -15, 15 and fourteen duplicates) has 46 steps."""

STEP_INDEX_BITS: Final = (STEPS_PER_CODEBOOK - 1).bit_length()
"""Width of a step's place within its program."""

STEP_LAYOUT: Final = data.StructLayout(
    {
        "code": unsigned(CODE_BITS),  # table entry to write
        "write": unsigned(1),  # write the product as it is after this step
        "clear": unsigned(1),  # adder := 0 (goes before advance)
        "advance": unsigned(1),  # adder := adder + weight, or - weight
        "subtract": unsigned(1),  # with advance: subtract
        "last": unsigned(1),  # the program ends with this step
    }
)
"""One step; fields from bit 0 upwards."""

STEP_BITS: Final = STEP_LAYOUT.size
"""Width of an encoded step."""


def _step(
    *, code: int = 0, write: bool = False, clear: bool = False, advance: bool = False, subtract: bool = False
) -> int:
    """One encoded step, not the last."""
    return STEP_LAYOUT.const(
        {"code": code, "write": write, "clear": clear, "advance": advance, "subtract": subtract, "last": False}
    ).as_bits()


def sweep_program(levels: ArrayLike) -> list[int]:
    """Encoded steps (see STEP_LAYOUT) that fill a product table for the 16 integer `levels` in [-15, 15].

    Clears, climbs to the highest level, clears again and descends to the lowest, writing each code when the
    adder passes its level; codes that share a level take one more step each. Length: `sweep_steps(levels)`,
    17 for the uniform codebook, 16..46 for any. The first step always clears, which is when the loader takes
    new weights. Raises UserError when `levels` is not a codebook.
    """
    codes_of: dict[int, list[int]] = {}
    for code, level in enumerate(check_levels(levels).tolist()):
        codes_of.setdefault(level, []).append(code)
    program: list[int] = []

    def visit(level: int, *, clear: bool = False, subtract: bool = False) -> None:
        codes = codes_of.get(level, [])
        first = codes[0] if codes else 0
        program.append(_step(code=first, write=bool(codes), clear=clear, advance=not clear, subtract=subtract))
        program.extend(_step(code=code, write=True) for code in codes[1:])

    visit(0, clear=True)
    for level in range(1, max(codes_of) + 1):
        visit(level)
    if min(codes_of) < 0:
        program.append(_step(clear=True))
        for level in range(-1, min(codes_of) - 1, -1):
            visit(level, subtract=True)
    program[-1] |= STEP_LAYOUT.const({"last": 1}).as_bits()
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

    Entries that the program never writes are 0.
    """
    table = [0] * CODES
    product = 0
    for encoded in program:
        step = STEP_LAYOUT.from_bits(encoded)
        if step.clear:
            product = 0
        elif step.advance:
            product += -weight if step.subtract else weight
        if step.write:
            table[step.code] = product
        if step.last:
            break
    return table


LONGEST_PROGRAM: Final = sweep_steps([LEVEL_MAX, *[-LEVEL_MAX] * (CODES - 1)])
"""Steps of the worst codebook: both ends of the range and nothing but duplicates."""
