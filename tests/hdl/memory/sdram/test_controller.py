# amaranth: UnusedElaboratable=no

"""The controller on the model: no request lost, no rule broken, the data pins busy."""

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hdl.memory.port import MemoryPort
from hdl.memory.sdram.address import AddressMap
from hdl.memory.sdram.controller import SdramController
from hdl.memory.sdram.limits import refresh_wait
from hdl.memory.sdram.pins import Command
from hdl.memory.sdram.rules import Rule
from hdl.memory.sdram.timing import PARTS, SdramCycles, SdramPart


def random_requests(seed: int, count: int, beat_bits: int, *, beats: int, spread: int) -> list[tuple[int, int | None]]:
    """Reads and writes over `spread` places far from each other, so that rows, banks and addresses meet again."""
    rng = np.random.default_rng(seed)
    places = rng.integers(beats, size=spread)
    return [
        (int((rng.choice(places) + rng.integers(2)) % beats), int.from_bytes(rng.bytes(beat_bits // 8), "little"))
        if rng.random() < 0.5
        else (int((rng.choice(places) + rng.integers(2)) % beats), None)
        for _ in range(count)
    ]


@pytest.mark.parametrize(("beat_bits", "gap"), [(64, 0.0), (64, 0.8), (128, 0.0), (128, 0.9), (256, 0.5), (512, 0.0)])
def test_equals_a_dictionary(run: Any, part: SdramPart, beat_bits: int, gap: float) -> None:
    # Twice the part's capacity: every other place is outside it.
    beats = part.bytes * 8 // beat_bits
    todo = random_requests(beat_bits, 16000 // beat_bits + 80, beat_bits, beats=beats + beats // 8, spread=24)
    found, controller = run(todo, beat_bits=beat_bits, gap=gap, seed=1)
    assert found.responses == controller.model({}, todo)
    assert found.violations == set()
    assert found.error == any(address >= beats and word is not None for address, word in todo)
    assert any(error for _, error in found.responses)


@pytest.mark.parametrize("mhz", [50, 100, 120])
@pytest.mark.parametrize("name", PARTS)
def test_other_parts_and_clocks(run: Any, name: str, mhz: int) -> None:
    part = replace(PARTS[name], rows=16, power_up_ns=1000)
    todo = random_requests(mhz, 80, 128, beats=part.bytes // 16, spread=12)
    found, controller = run(todo, part=part, cycles=part.at(mhz))
    assert found.responses == controller.model({}, todo)
    assert found.violations == set()


@pytest.mark.parametrize("beat_bits", [64, 128, 256])
@pytest.mark.parametrize("write", [False, True])
def test_sequential_beats_leave_no_gap_but_for_refresh(run: Any, beat_bits: int, write: bool) -> None:
    # Five rows, so that the last is a second one of its bank.
    words = beat_bits // 16
    count = 5 * 512 // words
    found, _ = run([(address, address if write else None) for address in range(count)], beat_bits=beat_bits)
    column = Command.WRITE if write else Command.READ
    bursts = [cycle for cycle, command in found.commands if command == column]
    pauses = [later - earlier - min(words, 8) for earlier, later in itertools.pairwise(bursts)]
    refreshes = sum(bursts[0] < cycle < bursts[-1] for cycle, command in found.commands if command == Command.REFRESH)
    assert refreshes == 2
    assert sum(pause != 0 for pause in pauses) == refreshes
    assert max(pauses) <= 30
    assert found.violations == set()


def test_turnaround(run: Any, cycles: SdramCycles) -> None:
    todo = [(address // 2, address if address % 2 else None) for address in range(20)]
    found, _ = run(todo)
    bursts = [(cycle, command) for cycle, command in found.commands if command in (Command.READ, Command.WRITE)]
    gaps = {(one, two): late - early - 8 for (early, one), (late, two) in itertools.pairwise(bursts[2:])}
    assert gaps == {(Command.READ, Command.WRITE): cycles.cas_latency + 1, (Command.WRITE, Command.READ): 0}


@pytest.mark.parametrize("beat_bits", [64, 128, 256])
def test_latency_of_an_open_row(run: Any, cycles: SdramCycles, beat_bits: int) -> None:
    found, _ = run([(address, None) for address in range(8)], beat_bits=beat_bits, gap=0.98, seed=2)
    latencies = [after - before for before, after in zip(found.accepted, found.answered, strict=True)]
    assert min(latencies) == 6 + cycles.cas_latency + beat_bits // 16


@pytest.mark.parametrize("stride", [0, 256, 1024])
def test_refresh_is_kept_and_never_later_than_the_bound(run: Any, cycles: SdramCycles, stride: int) -> None:
    # In turns a READ and a WRITE, with strides 256 and 1024 each in another row, with 1024 always of the same bank.
    todo = [(stride * count % 4096, count if count % 2 else None) for count in range(200)]
    found, controller = run(todo)
    refreshes = [cycle for cycle, command in found.commands if command == Command.REFRESH][cycles.initial_refreshes :]
    assert len(refreshes) == found.accepted[-1] // cycles.refresh_interval >= 2
    late = [cycle % cycles.refresh_interval for cycle in refreshes]
    assert max(late) <= refresh_wait(controller.address, cycles)
    assert found.violations == set()


def test_words_are_in_the_cells_that_the_map_names(run: Any, part: SdramPart) -> None:
    split = AddressMap(part, 64)
    todo = [(address, 0x0003_0002_0001_0000 + 16 * address) for address in range(0, 4096, 129)]
    cells = [split.cell(address) + word for address, _ in todo for word in range(4)]
    found, _ = run(todo, beat_bits=64, cells=cells)
    assert found.cells == [beat >> 16 * word & 0xFFFF for _, beat in todo for word in range(4)]


SHORTER = {
    "rp": ({"rp": 2}, Rule.RP),
    "rfc": ({"rfc": 7}, Rule.RFC),
    "wr": ({"wr": 1}, Rule.WR),
    "mrd": ({"mrd": 2}, Rule.MRD),
    "refresh_interval": ({"refresh_interval": 2900}, Rule.REFRESH_INTERVAL),
    "power_up": ({"power_up": 130}, Rule.POWER_UP),
    "initial_refreshes": ({"initial_refreshes": 7}, Rule.INITIALIZATION),
    "cas_latency": ({"cas_latency": 2}, Rule.MODE_CONTENT),
}


@pytest.mark.parametrize("name", SHORTER)
def test_a_controller_with_a_wrong_time_is_caught(run: Any, cycles: SdramCycles, name: str) -> None:
    wrong, rule = SHORTER[name]
    model = replace(cycles, mrd=12) if name == "mrd" else cycles
    todo = [(address * 1024 % 4096, address) for address in range(20)]
    idle = 5 * cycles.refresh_interval if name == "refresh_interval" else 50
    found, _ = run(todo, cycles=replace(cycles, **wrong), model_cycles=model, idle=idle)
    assert rule in found.violations


def test_the_shortest_times_of_a_row_are_kept(run: Any, cycles: SdramCycles) -> None:
    long_row = replace(cycles, ras=14, rc=22)
    todo = [(address * 2048 % 8192, address % 2 or None) for address in range(60)]
    assert run(todo, beat_bits=64, cycles=long_row)[0].violations == set()
    assert run(todo, beat_bits=64, model_cycles=long_row)[0].violations == {Rule.RAS, Rule.RC}


@pytest.mark.parametrize(
    ("changed", "beat_bits", "says"),
    [
        ({"rcd": 5}, 128, "cycles.rcd=5"),
        ({"wr": 10}, 128, "cycles.wr=10"),
        ({"refresh_interval": 100}, 128, "must be above"),
    ],
)
def test_times_that_do_not_fit_are_refused(
    part: SdramPart, cycles: SdramCycles, changed: dict[str, int], beat_bits: int, says: str
) -> None:
    port = MemoryPort(address_bits=11, beat_bits=beat_bits)
    with pytest.raises(ValueError, match=says):
        SdramController(port, part, replace(cycles, **changed))
