"""Where a beat of the memory port lies in the part."""

from dataclasses import dataclass
from typing import Any, Final

from hdl.memory.sdram.timing import BANKS, WORD_BITS, SdramPart
from hdl.parameters import require

BEAT_BITS: Final = (64, 128, 256, 512)
BURST_MAX: Final = 8


@dataclass(frozen=True)
class AddressMap:
    """The number of a beat, from its low bits: place in a row, bank, row.

    A stream of beats goes through one row of each bank before the next row, so the bank that follows can be opened
    while the stream is still in the one before. The lowest bits of the row turn the banks: streams whose distance is a
    multiple of all banks' rows would else meet in one bank at every step, and close each other's rows. Turned by
    addition, the last bank of one row is never the first of the next.

    Raises ValueError when the port's beats are none of 64, 128, 256, 512 bits.
    """

    part: SdramPart
    beat_bits: int

    def __post_init__(self) -> None:
        require("beat_bits", self.beat_bits, BEAT_BITS, f"one of {BEAT_BITS}")

    @property
    def words(self) -> int:
        """Words of a beat."""
        return self.beat_bits // WORD_BITS

    @property
    def burst(self) -> int:
        """Words of a burst: a beat, or 8 of its words."""
        return min(self.words, BURST_MAX)

    @property
    def bursts(self) -> int:
        """Bursts of a beat."""
        return self.words // self.burst

    @property
    def place_bits(self) -> int:
        """Bits of the place in a row, in beats."""
        return (self.part.columns // self.words).bit_length() - 1

    @property
    def row_bits(self) -> int:
        """Bits of a row."""
        return self.part.rows.bit_length() - 1

    @property
    def bits(self) -> int:
        """Bits of the number of a beat in the part."""
        return self.place_bits + 2 + self.row_bits

    def split(self, address: Any) -> tuple[Any, Any, Any]:
        """(place, bank, row) of an address of at least `bits` bits, as values of Amaranth."""
        place, bank, row = (
            address[: self.place_bits],
            address[self.place_bits :][:2],
            address[self.place_bits + 2 :][: self.row_bits],
        )
        return place, (bank + row[:2])[:2], row

    def cell(self, address: int) -> int:
        """Number of the cell (bank, row, column from the top) with the first word of a beat; the rest follow it."""
        place = address % (1 << self.place_bits)
        bank, row = (address >> self.place_bits) % BANKS, address >> (self.place_bits + 2)
        return (((bank + row) % BANKS * self.part.rows) + row) * self.part.columns + place * self.words
