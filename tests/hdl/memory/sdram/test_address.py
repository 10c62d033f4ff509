"""Where beats lie: every beat has its own cells, and streams change banks with every row."""

import itertools

import pytest

from hdl.memory.sdram.address import AddressMap
from hdl.memory.sdram.timing import SdramPart


@pytest.mark.parametrize("beat_bits", [64, 128, 256, 512])
def test_every_beat_has_cells_of_its_own(part: SdramPart, beat_bits: int) -> None:
    split = AddressMap(part, beat_bits)
    first = [split.cell(address) for address in range(1 << split.bits)]
    assert sorted(first) == list(range(0, part.bytes // 2, split.words))


def test_a_stream_never_stays_in_a_bank_for_two_rows(part: SdramPart) -> None:
    split = AddressMap(part, 128)
    bank_cells = part.rows * part.columns
    banks = [split.cell(address << split.place_bits) // bank_cells for address in range(4 * part.rows)]
    assert all(one != other for one, other in itertools.pairwise(banks))
    # The same place of all banks' rows further on: another bank.
    assert all(one != other for one, other in zip(banks, banks[4:], strict=False))


def test_other_beats_are_refused(part: SdramPart) -> None:
    with pytest.raises(ValueError, match="nearest valid value: 64"):
        AddressMap(part, 32)
