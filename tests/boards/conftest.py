"""A board in Amaranth's simulator behind the byte transport that a serial port would be."""

from collections import deque
from typing import Any

import pytest
from amaranth.hdl import Elaboratable, Module
from amaranth.sim import Simulator

from hdl.array.geometry import PRESETS, ArrayGeometry
from hdl.array.sweep import STEPS_PER_CODEBOOK
from hdl.link.host_link import HostLink, connect_array
from hdl.matmul import OUTPUT_DEPTH, Matmul

PERIOD_S = 1e-8


class LinkedArray(Elaboratable):
    """The real link in front of the real array, without UART."""

    def __init__(self, geometry: ArrayGeometry, *, watchdog: int) -> None:
        self.array = Matmul(geometry)
        self.link = HostLink(
            self.array,
            codebook_steps=STEPS_PER_CODEBOOK,
            output_depth=OUTPUT_DEPTH,
            clock_khz=100_000,
            receive_bytes=512,
            watchdog=watchdog,
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.array = self.array
        m.submodules.link = self.link
        connect_array(m, self.link, self.array)
        return m


class SimulatedBoard:
    """Transport to a LinkedArray: ``read`` lets the simulated time pass, at most ``patience`` cycles for a byte.

    ``damage`` maps the number of a byte sent to a bit of it that is flipped on the way; ``lost`` holds numbers of
    bytes that never arrive. ``tap`` collects what is sent.
    """

    def __init__(self, geometry: ArrayGeometry = PRESETS["tiny"], *, watchdog: int = 1500, patience: int = 12000):
        self.design = LinkedArray(geometry, watchdog=watchdog)
        self.patience = patience
        self.damage: dict[int, int] = {}
        self.lost: set[int] = set()
        self.tap: bytearray | None = None
        self.sent = 0
        self.cycles = 0
        self._outgoing: deque[int] = deque()
        self._incoming = bytearray()
        self._simulator = Simulator(self.design)
        self._simulator.add_clock(PERIOD_S)
        self._simulator.add_testbench(self._feed, background=True)
        self._simulator.add_testbench(self._collect, background=True)

    async def _feed(self, ctx: Any) -> None:
        port = self.design.link.i
        while True:
            if not self._outgoing:
                ctx.set(port.valid, 0)
                await ctx.tick()
                continue
            ctx.set(port.payload, {"data": self._outgoing.popleft(), "error": 0})
            ctx.set(port.valid, 1)
            await ctx.tick().until(port.ready)

    async def _collect(self, ctx: Any) -> None:
        port = self.design.link.o
        ctx.set(port.ready, 1)
        async for _, _, valid, byte in ctx.tick().sample(port.valid, port.payload):
            if valid:
                self._incoming.append(byte)

    def write(self, data: bytes) -> int:
        if self.tap is not None:
            self.tap += data
        for byte in data:
            if self.sent not in self.lost:
                self._outgoing.append(byte ^ (1 << self.damage[self.sent] if self.sent in self.damage else 0))
            self.sent += 1
        return len(data)

    def read(self, size: int) -> bytes:
        step = 20
        for _ in range(self.patience // step):
            if self._incoming:
                break
            self.cycles += step
            self._simulator.run_until(self.cycles * PERIOD_S)
        piece = bytes(self._incoming[:size])
        del self._incoming[:size]
        return piece


@pytest.fixture
def simulated_board() -> type[SimulatedBoard]:
    return SimulatedBoard
