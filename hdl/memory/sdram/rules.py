"""The rules of an SDRAM that the model checks, by name."""

from enum import IntEnum, auto


class Rule(IntEnum):
    """A bit of the model's `violations` each."""

    POWER_UP = 0
    """A command before the power-up delay is over."""
    INITIALIZATION = auto()
    """A row is opened before all banks were closed, refreshed as often as the part wants, and the mode set."""
    MODE_CONTENT = auto()
    """The mode register is set to something other than what the model was made for."""
    BANK_OPEN = auto()
    """ACTIVATE of an open bank, or REFRESH or MODE with one open."""
    ROW_CLOSED = auto()
    """READ or WRITE of a bank without an open row."""
    RCD = auto()
    RP = auto()
    RAS = auto()
    RAS_MAX = auto()
    RC = auto()
    RRD = auto()
    RFC = auto()
    WR = auto()
    MRD = auto()
    REFRESH_INTERVAL = auto()
    """Refreshes are two intervals behind."""
    BURST_CUT = auto()
    """READ, WRITE or PRECHARGE while words of the burst before it are missing: legal, but not modelled."""
    DQ_CONTENTION = auto()
    """The controller drives while the part does, or in the cycle behind."""
    DATA_MISSING = auto()
    """Words of a WRITE that nobody drives."""
    ADDRESS = auto()
    """A row or column that the part does not have."""
    UNSUPPORTED = auto()
    """Legal, but not modelled: CKE low, data mask, auto precharge, STOP."""


def violated(bits: int) -> set[Rule]:
    """The rules of the bits that are set."""
    return {rule for rule in Rule if bits >> rule & 1}
