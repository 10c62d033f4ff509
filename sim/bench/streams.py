"""cocotb drivers and monitors of Amaranth streams, with random back-pressure and a check of the stream rules.

One coroutine serves all streams of a component: per clock cycle it waits once and touches only what can
change, so tens of thousands of cycles take seconds. At a rising edge cocotb reads the values from before the
edge, and what it writes becomes visible after the edge; a transfer is a cycle with `valid` and `ready` both 1.
"""

import random
from collections.abc import Sequence
from typing import Any

import cocotb
from cocotb.triggers import ReadWrite, RisingEdge


class StreamRuleError(AssertionError):
    """The component broke a rule of streams, sent too much, or stopped."""


class Source:
    """Feeds the stream port `name` of `dut` with `payloads`, in order.

    gap: probability that the source waits a cycle before it offers the next payload; meanwhile the port carries
    the last payload with every bit inverted, which nobody may look at. `cycles[n]` is the cycle of transfer n.
    """

    def __init__(self, dut: Any, name: str, payloads: Sequence[int], *, gap: float, generator: random.Random) -> None:
        self.name = name
        self.cycles: list[int] = []
        self._payload = getattr(dut, f"{name}__payload")
        self._valid = getattr(dut, f"{name}__valid")
        self._ready = getattr(dut, f"{name}__ready")
        self._payloads = payloads
        self._all_bits = (1 << len(self._payload)) - 1
        self._gap = gap
        self._random = generator.random
        self._offered = False
        self._valid.value = 0
        self._offer()

    @property
    def done(self) -> bool:
        """All payloads were taken."""
        return len(self.cycles) == len(self._payloads)

    def _offer(self) -> None:
        offered = not self.done and (self._gap == 0 or self._random() >= self._gap)
        if offered:
            self._payload.value = self._payloads[len(self.cycles)]
        elif self._offered:
            self._payload.value = self._payloads[len(self.cycles) - 1] ^ self._all_bits
        if offered != self._offered:
            self._valid.value = int(offered)
            self._offered = offered

    def step(self, cycle: int) -> None:
        """One clock cycle: note the transfer, if any, and offer the next payload."""
        if self._offered:
            if not self._ready.value:
                return
            self.cycles.append(cycle)
        self._offer()


class Sink:
    """Takes `expected` payloads from the stream port `name` of `dut` and checks the rules of streams.

    stall: probability that the sink is not ready in a cycle. A payload that is offered and not taken has to
    stay, unchanged, until it is taken; nothing may follow the last expected payload. `payloads[n]` was taken
    in cycle `cycles[n]`.
    """

    def __init__(self, dut: Any, name: str, expected: int, *, stall: float, generator: random.Random) -> None:
        self.name = name
        self.payloads: list[int] = []
        self.cycles: list[int] = []
        self._payload = getattr(dut, f"{name}__payload")
        self._valid = getattr(dut, f"{name}__valid")
        self._ready = getattr(dut, f"{name}__ready")
        self._expected = expected
        self._stall = stall
        self._random = generator.random
        self._waiting: int | None = None
        self._taking = True
        self._ready.value = 1

    @property
    def done(self) -> bool:
        """All expected payloads have come."""
        return len(self.payloads) == self._expected

    def step(self, cycle: int) -> None:
        """One clock cycle: check the rules, note the transfer, if any, and decide on the next cycle."""
        if self._valid.value:
            payload = self._payload.value.to_unsigned()
            if self._waiting is not None and payload != self._waiting:
                raise StreamRuleError(f"{self.name}: payload changed in cycle {cycle} while it waited for ready")
            if self.done:
                raise StreamRuleError(f"{self.name}: more than the {self._expected} expected payloads (cycle {cycle})")
            if self._taking:
                self.payloads.append(payload)
                self.cycles.append(cycle)
                self._waiting = None
            else:
                self._waiting = payload
        elif self._waiting is not None:
            raise StreamRuleError(f"{self.name}: valid fell in cycle {cycle} before its payload was taken")
        if self._stall:
            taking = self._random() >= self._stall
            if taking != self._taking:
                self._ready.value = int(taking)
                self._taking = taking


class Fault:
    """Inverts the bits `mask` of a signal or memory word once, right after a clock edge.

    The edge is that of a transfer of a stream, or the one `delay` cycles later.

    signal: path below `dut`, parts separated by "/". word: index into a memory, None for a signal. transfers:
    the transfer of `stream` that sets the fault off, counted from 1.
    """

    def __init__(
        self,
        dut: Any,
        stream: Source | Sink,
        *,
        signal: str,
        mask: int,
        transfers: int,
        word: int | None = None,
        delay: int = 0,
    ) -> None:
        handle = dut
        for part in signal.split("/"):
            handle = handle[part]
        self._handle = handle if word is None else handle[word]
        self._stream, self._mask, self._transfers, self._delay = stream, mask, transfers, delay
        self.done = False

    def step(self, cycle: int) -> None:
        """One clock cycle."""
        cycles = self._stream.cycles
        if len(cycles) >= self._transfers and cycle >= cycles[self._transfers - 1] + self._delay:
            self.done = True
            cocotb.start_soon(self._invert())

    async def _invert(self) -> None:
        await ReadWrite()  # registers have their values of the coming cycle by now
        self._handle.value = int(str(self._handle.value), 2) ^ self._mask


async def exchange(
    dut: Any,
    sources: Sequence[Source],
    sinks: Sequence[Sink],
    *,
    idle: str | None,
    stuck_after: int,
    faults: Sequence[Fault] = (),
    settle: int = 4,
) -> int:
    """Run the clock until every stream is done; returns the number of rising edges up to then.

    idle: an output of the component that has to be 1 as well, or None; the count includes the edge at which
    it is first seen. stuck_after: most cycles in a row without a transfer. settle: cycles that the sinks are
    watched for surplus payloads afterwards. Raises StreamRuleError when a sink does, when the component is
    stuck, or when a fault was never set off.
    """
    edge = RisingEdge(dut.clk)
    idle_port = getattr(dut, idle) if idle is not None else None
    streams: list[Source | Sink] = [*sources, *sinks]
    pending = [stream for stream in streams if not stream.done]
    waiting_faults = list(faults)
    cycle, seen, last_transfer = 0, 0, 0
    while True:
        await edge
        cycle += 1
        for source in sources:
            source.step(cycle)
        for sink in sinks:
            sink.step(cycle)
        for fault in waiting_faults:
            fault.step(cycle)
        waiting_faults = [fault for fault in waiting_faults if not fault.done]
        if not pending and (idle_port is None or idle_port.value):
            break
        pending = [stream for stream in pending if not stream.done]
        transfers = sum(len(stream.cycles) for stream in streams)
        if transfers != seen:
            seen, last_transfer = transfers, cycle
        elif cycle - last_transfer > stuck_after:
            stuck = ", ".join(f"{stream.name} after {len(stream.cycles)} transfers" for stream in pending)
            raise StreamRuleError(f"no transfer for {stuck_after} cycles; waiting: {stuck or f'{idle} stays 0'}")
    for _ in range(settle):
        await edge
        cycle += 1
        for sink in sinks:
            sink.step(cycle)
    if waiting_faults:
        raise StreamRuleError("a fault was never set off")
    return cycle - settle
