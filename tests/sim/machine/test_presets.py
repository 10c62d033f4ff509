"""Presets by name, with the memory of a board."""

import pytest

from sim.contract.errors import UserError
from sim.machine.presets import MEMORY_MB, PRESETS, preset_of


def test_memory_of_another_size_changes_nothing_else() -> None:
    assert preset_of("full") is PRESETS["full"]
    large = preset_of("full", 128)
    assert large.memory_bytes == 128 << 20
    assert [key for key in vars(large) if vars(large)[key] != vars(PRESETS["full"])[key]] == ["memory_bytes"]
    assert preset_of("small", 32) == PRESETS["small"]


@pytest.mark.parametrize("size", [0, 4, 48, 512, -8])
def test_other_sizes_are_refused(size: int) -> None:
    assert size not in MEMORY_MB
    with pytest.raises(UserError, match=r"--memory-mb .* choose one of 8, 16"):
        preset_of("small", size)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(UserError, match="no preset 'huge'"):
        preset_of("huge", 64)
