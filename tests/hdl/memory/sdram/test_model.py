# amaranth: UnusedElaboratable=no

"""Every rule of the model: a sequence of commands that keeps it, and one that breaks it and nothing else."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from amaranth.sim import Simulator

from hdl.memory.sdram.model import Sdram
from hdl.memory.sdram.pins import ALL_BANKS, Command, mode_register
from hdl.memory.sdram.rules import Rule, violated
from hdl.memory.sdram.timing import PARTS, SdramCycles

PART = replace(PARTS["AS4C16M16SA-6"], rows=16, power_up_ns=150, initial_refreshes=2)
# Longer than any sequence below but one, and every time longer than a burst, so that each can be broken alone.
CYCLES = replace(PART.at(133), ras=14, rc=20, rrd=3, mrd=3, ras_max=60, refresh_interval=100)
BURST = 4
MODE = mode_register(burst=BURST, cas_latency=3)


@dataclass(frozen=True)
class Step:
    """What stands at the pins in one cycle; `drive` is the word on the data pins, None when nobody drives."""

    command: Command = Command.NOP
    a: int = 0
    ba: int = 0
    drive: int | None = None
    cke: int = 1
    dqm: int = 0


def wait(cycles: int) -> list[Step]:
    return [Step()] * cycles


def write(place: int, ba: int = 0, words: int = BURST) -> list[Step]:
    """WRITE with its words, 100, 101, ..."""
    first = Step(Command.WRITE, a=place, ba=ba, drive=100)
    return [first, *(Step(drive=100 + word) for word in range(1, words))]


def read(place: int, ba: int = 0) -> Step:
    return Step(Command.READ, a=place, ba=ba)


def activate(row: int, ba: int = 0) -> Step:
    return Step(Command.ACTIVATE, a=row, ba=ba)


def precharge(ba: int = 0, a: int = 0) -> Step:
    return Step(Command.PRECHARGE, a=a, ba=ba)


CLOSE = precharge(a=ALL_BANKS)
REFRESH = Step(Command.REFRESH)
SET_MODE = Step(Command.MODE, a=MODE)


def start(cycles: SdramCycles = CYCLES, *, power_up: int = 0, refreshes: int = 2, mode: Step = SET_MODE) -> list[Step]:
    """Initialisation; `power_up` cycles too long, or too short when negative."""
    refreshing = [REFRESH, *wait(cycles.rfc - 1)]
    return [
        *wait(cycles.power_up + power_up),
        *(CLOSE, *wait(cycles.rp - 1)),
        *(refreshing * refreshes),
        *(mode, *wait(cycles.mrd - 1)),
    ]


OPEN = [*start(), activate(3, 1), *wait(CYCLES.rcd - 1)]
"""Row 3 of bank 1 is open and may be read or written."""

GOOD = {
    "write, read, close, open again": [
        *OPEN,
        *write(8, 1),
        read(8, 1),
        *wait(CYCLES.ras),
        precharge(1),
        *wait(CYCLES.rp - 1),
        activate(4, 1),
        *wait(CYCLES.rcd - 1),
        read(8, 1),
        *wait(20),
    ],
    "two banks": [
        *start(),
        activate(1, 0),
        *wait(CYCLES.rrd - 1),
        activate(1, 1),
        *wait(2),
        read(0, 0),
        *wait(3),
        read(4, 1),
    ],
    "write behind read": [*OPEN, read(0, 1), *wait(BURST + 3), *write(4, 1)],
    "write recovery": [*OPEN, *wait(20), *write(0, 1), *wait(CYCLES.wr - 1), precharge(1)],
    "refresh": [*start(), *[REFRESH, *wait(90)] * 5],
}

BAD = {
    "power-up": (Rule.POWER_UP, start(power_up=-1)),
    "no mode": (Rule.INITIALIZATION, [*start(mode=Step()), activate(0)]),
    "too few refreshes": (Rule.INITIALIZATION, [*start(refreshes=1), activate(0)]),
    "never closed": (Rule.INITIALIZATION, [*wait(CYCLES.power_up), REFRESH]),
    "cas latency": (Rule.MODE_CONTENT, start(mode=Step(Command.MODE, a=mode_register(burst=BURST, cas_latency=2)))),
    "burst length": (Rule.MODE_CONTENT, start(mode=Step(Command.MODE, a=mode_register(burst=8, cas_latency=3)))),
    "extended mode": (Rule.MODE_CONTENT, start(mode=replace(SET_MODE, ba=1))),
    "open twice": (Rule.BANK_OPEN, [*OPEN, *wait(20), activate(4, 1)]),
    "refresh of an open bank": (Rule.BANK_OPEN, [*OPEN, REFRESH]),
    "mode with an open bank": (Rule.BANK_OPEN, [*OPEN, SET_MODE]),
    "read of a closed bank": (Rule.ROW_CLOSED, [*OPEN, read(0, 2)]),
    "write of a closed bank": (Rule.ROW_CLOSED, [*OPEN, *write(0, 2)]),
    "rcd": (Rule.RCD, [*OPEN[:-1], read(0, 1)]),
    "rp": (Rule.RP, [*OPEN, *wait(20), precharge(1), *wait(CYCLES.rp - 2), activate(0, 1)]),
    "rp before refresh": (Rule.RP, [*OPEN, *wait(20), precharge(1), *wait(CYCLES.rp - 2), REFRESH]),
    "ras": (Rule.RAS, [*OPEN, *wait(CYCLES.ras - CYCLES.rcd - 1), precharge(1)]),
    "ras_max": (Rule.RAS_MAX, [*OPEN, *wait(CYCLES.ras_max)]),
    "rc": (Rule.RC, [*OPEN, *wait(CYCLES.ras - CYCLES.rcd), precharge(1), *wait(CYCLES.rp - 1), activate(0, 1)]),
    "rrd": (Rule.RRD, [*start(), activate(0, 0), *wait(CYCLES.rrd - 2), activate(0, 1)]),
    "rfc": (Rule.RFC, [*start(), REFRESH, *wait(CYCLES.rfc - 2), activate(0)]),
    "rfc of two refreshes": (Rule.RFC, [*start(), REFRESH, *wait(CYCLES.rfc - 2), REFRESH]),
    "wr": (Rule.WR, [*OPEN, *wait(20), *write(0, 1), *wait(CYCLES.wr - 2), precharge(1)]),
    "wr of all banks": (Rule.WR, [*OPEN, *wait(20), *write(0, 1), *wait(CYCLES.wr - 2), CLOSE]),
    "mrd": (Rule.MRD, [*start()[:-1], activate(0)]),
    "refresh interval": (Rule.REFRESH_INTERVAL, [*start(), *wait(201)]),
    "read cuts a read": (Rule.BURST_CUT, [*OPEN, read(0, 1), *wait(BURST - 2), read(4, 1)]),
    "precharge cuts a read": (Rule.BURST_CUT, [*OPEN, *wait(20), read(0, 1), *wait(BURST - 2), precharge(1)]),
    "no turnaround": (Rule.DQ_CONTENTION, [*OPEN, read(0, 1), *wait(BURST + 2), *write(4, 1)]),
    "both drive": (Rule.DQ_CONTENTION, [*OPEN, read(0, 1), *wait(3), Step(drive=1)]),
    "missing words": (Rule.DATA_MISSING, [*OPEN, *write(0, 1, words=BURST - 1), *wait(4)]),
    "row": (Rule.ADDRESS, [*start(), activate(PART.rows)]),
    "column": (Rule.ADDRESS, [*OPEN, read(PART.columns, 1)]),
    "auto precharge": (Rule.UNSUPPORTED, [*OPEN, read(ALL_BANKS, 1)]),
    "stop": (Rule.UNSUPPORTED, [*OPEN, Step(Command.STOP)]),
    "clock off": (Rule.UNSUPPORTED, [*OPEN, replace(read(0, 1), cke=0)]),
    "mask": (Rule.UNSUPPORTED, [*OPEN, replace(read(0, 1), dqm=1)]),
}


def play(steps: list[Step]) -> tuple[set[Rule], list[int]]:
    """Rules broken, and what was on the data pins cycle by cycle, over the steps and some cycles more."""
    sdram = Sdram(PART, CYCLES, burst=BURST)
    words: list[int] = []
    broken: set[Rule] = set()

    def numbers(step: Step) -> Iterator[tuple[Any, int]]:
        pins = sdram.pins
        yield from ((pins.command, step.command), (pins.a, step.a), (pins.ba, step.ba), (pins.cke, step.cke))
        yield from ((pins.dqm, step.dqm), (pins.dq_o, step.drive or 0), (pins.dq_oe, step.drive is not None))

    async def drive(ctx: Any) -> None:
        nonlocal broken
        for step in [*steps, *wait(2)]:
            for pin, value in numbers(step):
                ctx.set(pin, value)
            words.append((await ctx.tick().sample(sdram.pins.dq_i))[-1])
        broken = violated(ctx.get(sdram.violations))

    simulator = Simulator(sdram)
    simulator.add_clock(7.5e-9)
    simulator.add_testbench(drive)
    simulator.run()
    return broken, words


@pytest.mark.parametrize("name", GOOD)
def test_what_the_data_sheet_allows_breaks_no_rule(name: str) -> None:
    assert play(GOOD[name])[0] == set()


@pytest.mark.parametrize("name", BAD)
def test_a_broken_rule_is_named(name: str) -> None:
    rule, steps = BAD[name]
    assert play(steps)[0] == {rule}


def test_every_rule_is_tested() -> None:
    assert {rule for rule, _ in BAD.values()} == set(Rule)


def test_words_written_are_read_cas_latency_cycles_later() -> None:
    # From the block's middle: the burst begins again at the block's start.
    steps = [*OPEN, *write(8, 1), read(10, 1), *wait(10)]
    broken, words = play(steps)
    asked = steps.index(read(10, 1))
    assert words[asked + CYCLES.cas_latency :][:BURST] == [102, 103, 100, 101]
    assert words[asked + CYCLES.cas_latency - 1] not in range(100, 104)
    assert broken == set()
