"""Is the design being elaborated for an ECP5?"""

from typing import Any


def is_ecp5(platform: Any) -> bool:
    """True when `platform` names a Lattice LFE5 device; None and simulators give False."""
    return str(getattr(platform, "device", "")).upper().startswith("LFE5")


class Ecp5Target:
    """A platform without pins: makes units elaborate to ECP5 primitives for synthesis on their own."""

    device = "LFE5U"
