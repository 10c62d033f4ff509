"""Counts and reports the states of one unit."""

from collections import deque
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from amaranth.hdl import Cat, Elaboratable, Module, Signal, Value, unsigned
from amaranth.lib import data, fifo, stream, wiring
from amaranth.lib.wiring import In, Out
from numpy.typing import ArrayLike, NDArray

from hdl.activity.observation import Observation
from hdl.activity.state import STATE_BITS, State, state_of
from hdl.parameters import require

CONDITIONS: Final = ("transfer", "blocked", "awaited", "working")


def event_layout(time_bits: int) -> data.StructLayout:
    """An event: `state` began in cycle `time`."""
    return data.StructLayout({"time": unsigned(time_bits), "state": unsigned(STATE_BITS)})


def report_ports(*, streams: int, counter_bits: int, time_bits: int) -> dict[str, Any]:
    """What a monitor of so many streams shows. Raises ValueError when a number is out of range."""
    widths = range(8, 65)
    streams = require("streams", streams, range(65), "in 0..64")
    counter = unsigned(require("counter_bits", counter_bits, widths, "in 8..64"))
    return {
        "o_state": Out(STATE_BITS),
        "o_cycles": Out(data.ArrayLayout(counter, len(State))),
        "o_transfers": Out(data.ArrayLayout(counter, streams)),
        "o_event": Out(stream.Signature(event_layout(require("time_bits", time_bits, widths, "in 8..64")))),
        "o_dropped": Out(counter),
    }


class ActivityMonitor(wiring.Component):
    """Counters of states and transfers, and a stream of events at each change of state.

    Every input is registered first, so a monitor adds a load to the unit's signals and no logic: `o_state` is the
    state of the cycle before, `time` has to be the number of that cycle, and the counters include it one cycle later.

    `o_cycles[state]` and `o_transfers[stream]` wrap around at 2^counter_bits: the difference of two readings is right
    modulo that, so nothing has to be cleared. Their sum over the states is the cycles since reset.

    `o_event` says from which cycle on the unit is in which state; it is IDLE before the first. A change that finds
    the queue of `event_depth` events full is dropped: `o_dropped` counts it, and once there is room the state of that
    moment is reported, so that a gap ends with the right state. Throughput: one event per cycle.

    Raises ValueError when a parameter is out of range.
    """

    def __init__(self, *, streams: int, counter_bits: int = 32, time_bits: int = 32, event_depth: int = 4) -> None:
        self._streams = streams
        self._event_depth = require("event_depth", event_depth, range(1, 513), "in 1..512")
        reported = report_ports(streams=streams, counter_bits=counter_bits, time_bits=time_bits)
        super().__init__(
            {
                **{name: In(1) for name in CONDITIONS},
                "transfers": In(streams),
                "time": In(time_bits),
                **reported,
            }
        )

    @staticmethod
    def model(
        states: ArrayLike, *, read: Sequence[bool] | None = None, event_depth: int = 4
    ) -> tuple[NDArray[np.int64], list[tuple[int, State]], int]:
        """(cycles per state int64 (4,), events (time, state) as they leave, dropped) for states (cycles,).

        read: whether `o_event` was ready in the cycle after each cycle of `states`; None for always.
        """
        queue: deque[tuple[int, State]] = deque()
        events: list[tuple[int, State]] = []
        reported = previous = State.IDLE
        dropped = 0
        for time, state in enumerate(State(int(each)) for each in np.asarray(states)):
            taken = bool(queue) and (read is None or read[time])
            full = len(queue) == event_depth
            if state != reported and not full:
                queue.append((time, state))
                reported = state
            dropped += state not in (reported, previous)
            if taken:
                events.append(queue.popleft())
            previous = state
        return np.bincount(np.asarray(states), minlength=len(State)), events, dropped

    def elaborate(self, platform: Any) -> Elaboratable:
        """Registers, counters, and a queue that takes the state when it differs from the last one reported."""
        m = Module()
        registered = {name: Signal(name=f"{name}_before") for name in CONDITIONS}
        transfers = Signal(self._streams)
        running = Signal()  # no cycle has been registered in the first one after reset
        m.d.sync += [running.eq(1), transfers.eq(self.transfers)]
        m.d.sync += [signal.eq(getattr(self, name)) for name, signal in registered.items()]
        m.d.comb += self.o_state.eq(state_of(**registered))
        for state in State:
            count = self.o_cycles[state]
            m.d.sync += count.eq(count + (running & (self.o_state == state)))
        for index in range(self._streams):
            m.d.sync += self.o_transfers[index].eq(self.o_transfers[index] + transfers[index])

        m.submodules.queue = queue = fifo.SyncFIFO(
            width=Value.cast(self.o_event.payload).shape().width, depth=self._event_depth
        )
        reported, previous = Signal(STATE_BITS), Signal(STATE_BITS)
        wanted, changed = Signal(), Signal()
        m.d.comb += [
            wanted.eq(self.o_state != reported),
            changed.eq(self.o_state != previous),
            queue.w_data.eq(Cat(self.time, self.o_state)),
            queue.w_en.eq(wanted),
            Value.cast(self.o_event.payload).eq(queue.r_data),
            self.o_event.valid.eq(queue.r_rdy),
            queue.r_en.eq(self.o_event.ready),
        ]
        m.d.sync += previous.eq(self.o_state)
        with m.If(wanted & queue.w_rdy):
            m.d.sync += reported.eq(self.o_state)
        with m.If(wanted & changed & ~queue.w_rdy):
            m.d.sync += self.o_dropped.eq(self.o_dropped + 1)
        return m


def monitor(m: Module, observation: Observation, time: Value, name: str, **sizes: int) -> ActivityMonitor:
    """Add the monitor of an observation to `m` as submodule `name`; `time` is the number of the cycle before.

    sizes: counter_bits and event_depth.
    """
    added = ActivityMonitor(streams=len(observation.streams), time_bits=len(time), **sizes)
    m.submodules[name] = added
    m.d.comb += [getattr(added, condition).eq(value) for condition, value in observation.conditions().items()]
    m.d.comb += [added.transfers.eq(observation.transfers()), added.time.eq(time)]
    return added


def cycle_before(m: Module, bits: int) -> Signal:
    """A counter in `m`: the number of the cycle before the current one, 0 for the first after reset."""
    time = Signal(bits, name="cycle_before", init=-1)
    m.d.sync += time.eq(time + 1)
    return time
