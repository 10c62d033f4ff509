"""Sweep programs as hardware reads them: the layout of an encoded step. The programs are those of sim.machine.sweep."""

from typing import Final

from amaranth.hdl import unsigned
from amaranth.lib import data

from hdl.array.geometry import CODE_BITS
from sim.machine.sweep import (
    EARLY,
    LONGEST_PROGRAM,
    STEP_BITS,
    STEPS_PER_CODEBOOK,
    run_program,
    sweep_program,
    sweep_steps,
)

__all__ = [
    "EARLY",
    "LONGEST_PROGRAM",
    "STEPS_PER_CODEBOOK",
    "STEP_BITS",
    "STEP_INDEX_BITS",
    "STEP_LAYOUT",
    "run_program",
    "sweep_program",
    "sweep_steps",
]

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
"""One step; fields from bit 0 upwards, as sim.machine.sweep encodes them."""
