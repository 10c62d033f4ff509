# amaranth: UnusedElaboratable=no
import random

import pytest
from amaranth.sim import Simulator

from hdl.link.uart import BIT_COUNT, UartReceiver, UartTransmitter, baud_divisor

DATA = bytes([0x00, 0xFF, 0x55, 0xAA, 0x01, 0x80, 0x7E]) + random.Random(8).randbytes(12)


def receive(dut: UartReceiver, levels: list[int], *, take: bool = True) -> tuple[list[tuple[int, int]], int]:
    """Bytes and overrun pulses of the receiver for one level per cycle."""
    received, overruns = [], 0

    async def bench(ctx):
        nonlocal overruns
        ctx.set(dut.o.ready, take)
        for level in [*levels, *[1] * 8]:
            ctx.set(dut.rx, level)
            _, _, valid, payload, overrun = await ctx.tick().sample(dut.o.valid, dut.o.payload, dut.overrun)
            overruns += overrun
            if valid and take:
                received.append((payload.data, payload.error))
        if not take and ctx.get(dut.o.valid):
            received.append((ctx.get(dut.o.p.data), ctx.get(dut.o.p.error)))

    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(bench)
    simulator.run()
    return received, overruns


@pytest.mark.parametrize("divisor", [4, 5, 8])
def test_transmitter_equals_model(divisor: int) -> None:
    dut = UartTransmitter(divisor=divisor)
    levels: list[int] = []

    async def feed(ctx):
        ctx.set(dut.i.valid, 1)
        for byte in DATA:
            ctx.set(dut.i.payload, byte)
            await ctx.tick().until(dut.i.ready)
        ctx.set(dut.i.valid, 0)

    async def watch(ctx):
        async for _, _, level in ctx.tick().sample(dut.tx):
            levels.append(level)

    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(feed)
    simulator.add_testbench(watch, background=True)
    simulator.run_until(1e-8 * (len(DATA) * dut.byte_cycles + 20))
    start = levels.index(0)
    assert start <= 2
    expected = dut.model(DATA)
    assert len(expected) == len(DATA) * BIT_COUNT * divisor
    assert levels[start : start + len(expected)] == expected
    assert all(levels[start + len(expected) :])


@pytest.mark.parametrize("divisor", [4, 5, 10])
def test_receiver_reads_a_line_without_pauses(divisor: int) -> None:
    dut = UartReceiver(divisor=divisor)
    levels = [1] * 3 + UartTransmitter(divisor=divisor).model(DATA)
    assert dut.model(levels + [1] * 8) == [(byte, 0) for byte in DATA]
    assert receive(dut, levels) == ([(byte, 0) for byte in DATA], 0)


@pytest.mark.parametrize("skew", [0.97, 1.03])
def test_receiver_tolerates_the_other_clock(skew: float) -> None:
    ideal = UartTransmitter(divisor=20).model(DATA)
    levels = [ideal[int(cycle / skew)] for cycle in range(int(len(ideal) * skew))]
    assert receive(UartReceiver(divisor=20), levels)[0] == [(byte, 0) for byte in DATA]


def test_receiver_flags_a_missing_stop_bit_and_recovers() -> None:
    sender = UartTransmitter(divisor=6)
    low = [0] * (6 * 40)  # a line held low for four byte times: one damaged byte
    levels = [1] * 4 + sender.model(b"A") + low + [1] * 9 + sender.model(b"B")
    expected = [(ord("A"), 0), (0, 1), (ord("B"), 0)]
    dut = UartReceiver(divisor=6)
    assert dut.model(levels + [1] * 8) == expected
    assert receive(dut, levels)[0] == expected


def test_receiver_ignores_a_glitch() -> None:
    levels = [1] * 4 + [0, 0] + [1] * 30 + UartTransmitter(divisor=10).model(b"C")
    assert receive(UartReceiver(divisor=10), levels)[0] == [(ord("C"), 0)]


def test_receiver_reports_an_overrun_and_keeps_the_first_byte() -> None:
    levels = [1] * 4 + UartTransmitter(divisor=6).model(b"xyz")
    assert receive(UartReceiver(divisor=6), levels, take=False) == ([(ord("x"), 0)], 2)


def test_divisor() -> None:
    assert baud_divisor(100e6, 1_000_000) == 100
    assert baud_divisor(100e6, 3_000_000) == 33
    for clock, baud, message in [
        (100e6, 0, "baud must be positive"),
        (10e6, 3_000_000, "at most 2500000"),
        (10e6, 1_900_000, "nearest valid value: 2000000"),
        (100e6, 90, "nearest valid value: 1048576"),
    ]:
        with pytest.raises(ValueError, match=message):
            baud_divisor(clock, baud)
    for divisor in (3, 0, -5, 1 << 21):
        with pytest.raises(ValueError, match="divisor must be an integer from 4"):
            UartReceiver(divisor=divisor)
