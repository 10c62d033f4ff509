"""Times of the parts in cycles."""

import pytest

from hdl.memory.sdram.timing import PARTS, part_of
from sim.contract.errors import UserError


def test_cycles_of_the_board_part_at_133_mhz() -> None:
    found = part_of("AS4C16M16SA-6").at(133)
    assert (found.rcd, found.rp, found.ras, found.rc, found.rrd, found.rfc, found.wr, found.mrd) == (
        3,
        3,
        6,
        8,
        2,
        8,
        2,
        2,
    )
    assert (found.cas_latency, found.refresh_interval, found.power_up) == (3, 1037, 26600)


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("mhz", [50, 80, 100, 120, 133])
def test_no_time_is_shorter_than_the_data_sheet_says(name: str, mhz: int) -> None:
    part, found = PARTS[name], PARTS[name].at(mhz)
    period = 1000 / mhz
    for time in ("rcd", "rp", "ras", "rc", "rrd", "rfc", "wr", "mrd", "power_up"):
        assert getattr(found, time) * period >= getattr(part, f"{time}_ns") - 1e-3, time
    assert found.refresh_interval * period <= part.refresh_interval_ns
    assert 8192 * part.refresh_interval_ns <= 64e6, "64 ms for 8192 rows"
    assert found.cas_latency == (2 if mhz <= 100 else 3)


def test_too_fast_a_clock_is_refused() -> None:
    with pytest.raises(ValueError, match=r"at most 142\.9"):
        part_of("AS4C16M16SA-7").at(150)


def test_capacity() -> None:
    assert part_of("AS4C16M16SA-6").bytes == 32 << 20


def test_unknown_part() -> None:
    with pytest.raises(UserError, match="choose one of AS4C16M16SA-6"):
        part_of("unknown")
