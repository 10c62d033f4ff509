"""A small part, and the controller with its model."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from benchmarks.sdram_run import Run, run_requests
from hdl.memory.sdram.controller import SdramController
from hdl.memory.sdram.timing import PARTS, SdramCycles, SdramPart

PART = replace(PARTS["AS4C16M16SA-6"], rows=16, power_up_ns=1000)
"""With few rows, which are few cells to simulate, and ready soon."""

CYCLES = PART.at(133.3)


@pytest.fixture
def run() -> Callable[..., tuple[Run, SdramController]]:
    """run_requests, of the small part when nothing else is said."""

    def run(requests: Any, **settings: Any) -> tuple[Run, SdramController]:
        return run_requests(requests, **{"part": PART, "cycles": CYCLES, **settings})

    return run


@pytest.fixture
def cycles() -> SdramCycles:
    """Of the small part at 133 MHz."""
    return CYCLES


@pytest.fixture
def part() -> SdramPart:
    """The small part."""
    return PART
