"""The pins of an SDRAM, and what they say."""

from enum import IntEnum
from typing import Final

from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.memory.sdram.timing import WORD_BITS

ADDRESS_PINS: Final = 13
ALL_BANKS: Final = 1 << 10
"""Address pin 10 with PRECHARGE: every bank. With READ and WRITE it would close the row afterwards."""


class Command(IntEnum):
    """The command pins, active high here: bit 0 is RAS, bit 1 CAS, bit 2 WE."""

    NOP = 0
    ACTIVATE = 0b001
    READ = 0b010
    REFRESH = 0b011
    STOP = 0b100
    PRECHARGE = 0b101
    WRITE = 0b110
    MODE = 0b111


class SdramPins(wiring.Signature):
    """The part as its controller sees it; every output comes from a register. CS# is tied active.

    The part takes what stands at the outputs at the end of a cycle; words of a READ are at `dq_i` for the controller to
    take at the end of the CAS-latency'th cycle behind that of the command and of the cycles after it. On a board this
    is so when the part's clock is the controller's, turned by half a period.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "cke": Out(1),
                "command": Out(Command),
                "ba": Out(2),
                "a": Out(ADDRESS_PINS),
                "dqm": Out(2),
                "dq_o": Out(WORD_BITS),
                "dq_oe": Out(1),
                "dq_i": In(WORD_BITS),
            }
        )


def mode_register(*, burst: int, cas_latency: int) -> int:
    """Content of the mode register: sequential bursts of `burst` (1, 2, 4, 8) words, read and written alike."""
    return (cas_latency << 4) | (burst.bit_length() - 1)
