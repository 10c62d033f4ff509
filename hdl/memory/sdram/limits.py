"""Times that the structure of the controller keeps without counting, and what it demands for that."""

from hdl.memory.sdram.address import AddressMap
from hdl.memory.sdram.interface import QUEUE_DEPTH, RCD_MAX, REQUEST_CYCLES
from hdl.memory.sdram.timing import SdramCycles
from hdl.parameters import require


def refresh_wait(address: AddressMap, cycles: SdramCycles) -> int:
    """Most cycles from the moment a refresh falls due until it is done.

    Requests handed on, and the one in hand, go first, in the worst case READ and WRITE in turns, each with a row to
    open and the last with one to close.
    """
    turn = max(address.words + cycles.cas_latency + 1, cycles.ras, cycles.rc)
    row = cycles.rp + cycles.rcd + cycles.wr + REQUEST_CYCLES + 2
    return (QUEUE_DEPTH + 2) * turn + 2 * row + cycles.rp + cycles.rfc


def check_times(address: AddressMap, cycles: SdramCycles) -> None:
    """Raises ValueError naming the time, its limit and the nearest valid value, when one does not fit."""
    times = (
        ("rcd", RCD_MAX, "the shortest way from ACTIVATE to READ"),
        ("rrd", REQUEST_CYCLES + 2, "the shortest way between two ACTIVATEs"),
        ("wr", address.burst + 1, "a burst and a cycle"),
    )
    for name, limit, why in times:
        require(f"cycles.{name}", getattr(cycles, name), range(1, limit + 1), f"in 1..{limit}, {why}")
    # Were the wait as long as the interval, a refresh could fall due unseen behind the one before it.
    longest = refresh_wait(address, cycles)
    if cycles.refresh_interval <= longest:
        raise ValueError(
            f"cycles.refresh_interval={cycles.refresh_interval} must be above {longest}, the longest wait for a "
            f"refresh with beats of {address.beat_bits} bits; nearest valid value: {longest + 1}"
        )
