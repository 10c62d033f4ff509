"""What data sheets of SDR SDRAM demand: times in nanoseconds, and in cycles of a clock."""

from dataclasses import dataclass
from math import ceil, floor
from typing import Final

from sim.contract.errors import UserError

BANKS: Final = 4
WORD_BITS: Final = 16
WORD_BYTES: Final = WORD_BITS // 8
MODE_CYCLES: Final = 2
"""tMRD of every part is at least two cycles."""


@dataclass(frozen=True, kw_only=True)
class SdramCycles:
    """A part at a clock, everything in cycles; the names are those of SdramPart without their unit."""

    cas_latency: int
    rcd: int
    rp: int
    ras: int
    ras_max: int
    rc: int
    rrd: int
    rfc: int
    wr: int
    mrd: int
    refresh_interval: int
    power_up: int
    initial_refreshes: int


@dataclass(frozen=True, kw_only=True)
class SdramPart:
    """A part of four banks with 16 data bits. Times are minima in ns unless said otherwise.

    name. source: of the figures. rows, columns: of a bank, powers of two; a column is a word of 16 bits. cas2, cas3:
    shortest clock period at CAS latency 2 and 3. rcd: ACTIVATE to READ or WRITE. rp: PRECHARGE to ACTIVATE or REFRESH.
    ras, ras_max: shortest and longest ACTIVATE to PRECHARGE. rc: ACTIVATE to ACTIVATE of one bank. rrd: the same of two
    banks. rfc: REFRESH to the next command. wr: last word written to PRECHARGE. mrd: mode register to the next command,
    two cycles at least. refresh_interval: longest average distance of two REFRESHes. power_up: stable supply to the
    first command. initial_refreshes: before the mode register is set.
    """

    name: str
    source: str
    rows: int = 8192
    columns: int = 512
    cas2_ns: float
    cas3_ns: float
    rcd_ns: float
    rp_ns: float
    ras_ns: float
    ras_max_ns: float = 100_000
    rc_ns: float
    rrd_ns: float
    rfc_ns: float
    wr_ns: float
    mrd_ns: float
    refresh_interval_ns: float = 7_800
    power_up_ns: float = 200_000
    initial_refreshes: int = 8

    def __post_init__(self) -> None:
        for name in ("rows", "columns"):
            if getattr(self, name) < 16 or getattr(self, name).bit_count() != 1:
                raise ValueError(f"{name}={getattr(self, name)} must be a power of two from 16 up")

    @property
    def bytes(self) -> int:
        """Capacity."""
        return BANKS * self.rows * self.columns * WORD_BYTES

    def at(self, mhz: float) -> SdramCycles:
        """The part at this clock, at the lowest CAS latency that allows it. Raises ValueError when the clock is faster
        than CAS latency 3 allows, or so slow that the part could not be refreshed."""
        period = 1000 / mhz
        if period < self.cas3_ns:
            raise ValueError(f"mhz={mhz:g} must be at most {1000 / self.cas3_ns:.4g}, the fastest clock of {self.name}")

        def cycles(ns: float) -> int:
            # A clock meant to be 1000 / 7.5 MHz is given as 133.33: a millionth of a cycle is no cycle.
            return ceil(ns / period - 1e-6)

        return SdramCycles(
            cas_latency=2 if period >= self.cas2_ns else 3,
            rcd=cycles(self.rcd_ns),
            rp=cycles(self.rp_ns),
            ras=cycles(self.ras_ns),
            ras_max=floor(self.ras_max_ns / period),
            rc=cycles(self.rc_ns),
            rrd=cycles(self.rrd_ns),
            rfc=cycles(self.rfc_ns),
            wr=cycles(self.wr_ns),
            mrd=max(MODE_CYCLES, cycles(self.mrd_ns)),
            refresh_interval=floor(self.refresh_interval_ns / period),
            power_up=cycles(self.power_up_ns),
            initial_refreshes=self.initial_refreshes,
        )


PARTS: Final = {
    part.name: part
    for part in (
        SdramPart(
            name="AS4C16M16SA-6",
            source="Alliance Memory AS4C16M16SA-C&I, rev. 3.0, March 2015, table 16, column -6",
            cas2_ns=10,
            cas3_ns=6,
            rcd_ns=18,
            rp_ns=18,
            ras_ns=42,
            rc_ns=60,
            rrd_ns=12,
            rfc_ns=60,
            wr_ns=12,
            mrd_ns=12,
        ),
        SdramPart(
            name="AS4C16M16SA-7",
            source="Alliance Memory AS4C16M16SA-C&I, rev. 3.0, March 2015, table 16, column -7",
            cas2_ns=10,
            cas3_ns=7,
            rcd_ns=21,
            rp_ns=21,
            ras_ns=42,
            rc_ns=63,
            rrd_ns=14,
            rfc_ns=63,
            wr_ns=14,
            mrd_ns=14,
        ),
        SdramPart(
            name="slowest",
            source="the larger of each figure of 16M x 16 parts of grades -6, -7 and -75: for a board whose part is "
            "not known; no part of its own",
            cas2_ns=10,
            cas3_ns=7.5,
            rcd_ns=21,
            rp_ns=21,
            ras_ns=45,
            rc_ns=67.5,
            rrd_ns=15,
            rfc_ns=67.5,
            wr_ns=15,
            mrd_ns=15,
        ),
    )
}
"""Parts by name. ras_max is 120 us in the table of the AS4C16M16SA and 100 us elsewhere; all have the shorter."""


def part_of(name: str) -> SdramPart:
    """The part of this name. Raises UserError when there is none."""
    if name not in PARTS:
        raise UserError(f"there is no SDRAM part {name!r}; choose one of {', '.join(PARTS)}")
    return PARTS[name]
