# amaranth: UnusedElaboratable=no

"""Beats to payloads and back: every size, back pressure, incomplete payloads forgotten, one transfer per cycle."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from amaranth.hdl import Module, Signal
from amaranth.sim import Simulator

from hdl.machine.gearbox import Join, PayloadsToBeats, Split, WeightsJoin, to_payloads
from hdl.machine.jobs import Beats
from tests.hdl.streams import receive, send

BEAT = 16
BEATS = Beats(BEAT, 256)
DROP = "drop"
"""Among what is given: a cycle of the line `drop`."""

PRESSURES = [{}, {"gap": 0.4}, {"stall": 0.6}, {"gap": 0.3, "stall": 0.4}]


def exchange(
    dut: Any, given: Sequence[Any], count: int, *, gap: float = 0.0, stall: float = 0.0
) -> tuple[list[Any], list[int], list[int]]:
    """(what left `o`, cycles of the transfers on `i`, those on `o`); after `count` nothing more may leave."""
    top = Module()
    top.submodules.dut = dut
    cycle = Signal(32)
    top.d.sync += cycle.eq(cycle + 1)
    found: list[Any] = []
    entered: list[int] = []
    left: list[int] = []

    async def feed(ctx: Any) -> None:
        rng = np.random.default_rng(1)
        for one in given:
            if isinstance(one, str):
                ctx.set(dut.drop, 1)
                await ctx.tick()
                ctx.set(dut.drop, 0)
            else:
                await send(ctx, dut.i, [one], rng=rng, gap=gap)

    async def take(ctx: Any) -> None:
        found.extend(await receive(ctx, dut.o, count, rng=np.random.default_rng(2), stall=stall))
        ctx.set(dut.o.ready, 1)
        for _ in range(10):
            assert not ctx.get(dut.o.valid)
            await ctx.tick()

    async def watch(ctx: Any) -> None:
        waiting = None
        while True:
            _, _, now, into, valid, ready, payload = await ctx.tick().sample(
                cycle, dut.i.valid & dut.i.ready, dut.o.valid, dut.o.ready, dut.o.payload
            )
            assert waiting in (None, (valid, payload)), "a payload that waits must stay"
            waiting = (valid, payload) if valid and not ready else None
            if into:
                entered.append(now)
            if valid and ready:
                left.append(now)

    simulator = Simulator(top)
    simulator.add_clock(1e-6)
    simulator.add_testbench(feed, background=True)
    simulator.add_testbench(watch, background=True)
    simulator.add_testbench(take)
    simulator.run()
    return found, entered, left


def random_bytes(count: int) -> bytes:
    return np.random.default_rng(3).integers(0, 256, count, dtype=np.uint8).tobytes()


def number(data: bytes) -> int:
    return int.from_bytes(data, "little")


def per_cycle(cycles: list[int]) -> bool:
    return cycles == list(range(cycles[0], cycles[0] + len(cycles)))


@pytest.mark.parametrize("size", [1, 4, 8, 16, 32, 128])
@pytest.mark.parametrize("pressure", PRESSURES)
def test_payloads_to_beats(size: int, pressure: dict[str, float]) -> None:
    payloads = to_payloads([random_bytes(384)], size)
    expected = PayloadsToBeats.model(payloads, BEAT)
    dut = PayloadsToBeats(BEATS, payload_bytes=size)
    found, entered, left = exchange(dut, list(map(number, payloads)), len(expected), **pressure)
    assert found == list(map(number, expected))
    if not pressure:
        assert per_cycle(entered if size <= BEAT else left)


@pytest.mark.parametrize("pressure", PRESSURES)
def test_split_into_sizes_that_change(pressure: dict[str, float]) -> None:
    rng = np.random.default_rng(4)
    given, expected = [], []
    for index in range(40):
        beat, log, last = random_bytes(BEAT + index)[index:], int(rng.integers(5)), int(rng.integers(2))
        size = 1 << log
        count = int(rng.integers(1, BEAT // size + 1))
        given.append({"data": number(beat), "last": last, "log_size": log, "count": count, "port": index})
        for part, payload in enumerate(to_payloads([beat], size)[:count]):
            expected.append((size, payload, int(last and part == count - 1), index))
    found, entered, left = exchange(Split(BEATS, 7), given, len(expected), **pressure)
    for one, (size, payload, last, port) in zip(found, expected, strict=True):
        assert one.data.to_bytes(BEAT, "little")[:size] == payload
        assert (one.last, one.port) == (last, port)
    if not pressure:
        assert per_cycle(left) and left[0] == entered[0] + 1


@pytest.mark.parametrize("pressure", PRESSURES)
def test_join_of_lengths_that_change(pressure: dict[str, float]) -> None:
    """Also with beats of a payload that never ends: they are forgotten, a whole payload that waits is not."""
    rng = np.random.default_rng(5)
    given: list[Any] = []
    expected: list[tuple[bytes, int]] = []
    for port in range(30):
        parts = int(rng.integers(1, 5))
        whole = random_bytes(BEAT * parts + port)[port:]
        beats = [
            {"data": number(beat), "final": int(part == parts - 1), "port": port}
            for part, beat in enumerate(to_payloads([whole], BEAT))
        ]
        if port % 3 == 0:
            given += [*beats[:-1], DROP]
        given += beats
        expected.append((whole, port))
    found, entered, left = exchange(Join(BEATS, 5, parts=4), given, len(expected), **pressure)
    for one, (whole, port) in zip(found, expected, strict=True):
        assert one.data.to_bytes(4 * BEAT, "little")[: len(whole)] == whole
        assert one.port == port
    if not pressure:
        finals = [index for index, one in enumerate(one for one in given if one != DROP) if one["final"]]
        assert left == [entered[index] + 1 for index in finals]


@pytest.mark.parametrize(("rows", "columns"), [(16, 8), (32, 8), (8, 32), (4, 8)])
@pytest.mark.parametrize("pressure", PRESSURES)
def test_weights_straight_and_turned(rows: int, columns: int, pressure: dict[str, float]) -> None:
    rng = np.random.default_rng(6)
    size = rows * columns // 2
    given: list[Any] = []
    expected = []
    for index in range(12):
        turned = int(rng.integers(2))
        data = random_bytes(size + index)[index:]
        nibbles = [byte >> shift & 15 for byte in data for shift in (0, 4)]
        expected.append(WeightsJoin.model(nibbles, rows, columns, turned=bool(turned)))
        beats = [{"data": number(beat), "turned": turned} for beat in to_payloads([data], BEAT)]
        if index % 4 == 1:
            given += [{**beat, "turned": 1 - turned} for beat in beats[:-1]] + [DROP]
        given += beats
    found, entered, _ = exchange(WeightsJoin(BEATS, rows=rows, columns=columns), given, len(expected), **pressure)
    assert [[one >> 4 * at & 15 for at in range(rows * columns)] for one in found] == expected
    if not pressure:  # a cycle of `drop` takes no beat
        assert entered[-1] - entered[0] == len(given) - 1


def test_turned_weights_are_the_transpose() -> None:
    columns_of_rows = [[1, 2, 3], [4, 5, 6]]
    nibbles = [nibble for column in columns_of_rows for nibble in column]
    assert WeightsJoin.model(nibbles, 3, 2, turned=True) == [1, 4, 2, 5, 3, 6]
    assert WeightsJoin.model(nibbles, 3, 2, turned=False) == nibbles


@pytest.mark.parametrize("size", [0, 3, 8192])
def test_payloads_of_other_sizes_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match=rf"payload_bytes={size} must be a power of two up to 4096; nearest valid"):
        PayloadsToBeats(BEATS, payload_bytes=size)


def test_weights_that_are_no_beat_are_refused() -> None:
    with pytest.raises(ValueError, match=r"beats of weights=0 must be in 1..1024; nearest valid value: 1"):
        WeightsJoin(BEATS, rows=4, columns=4)
