"""A component in simulation that prints what its parts do."""

from collections.abc import Callable, Sequence
from typing import Any, Final

from amaranth.hdl import Elaboratable, Format, Fragment, Module, Print, Signal
from amaranth.lib import wiring

from hdl.activity.monitor import cycle_before, monitor
from hdl.activity.observation import Observation
from hdl.activity.observed import pass_through
from hdl.activity.parts import Elaborated, Parts, parts_of
from hdl.activity.state import State

TIME_BITS: Final = 48
EVENT_DEPTH: Final = 2
"""The printer takes every event at once, so none is ever dropped."""


class Traced(wiring.Component):
    """`component` with the same ports; the simulator prints the activity of what `observations` finds inside.

    observations: called with the components inside, returns what to observe. Lines, one per clock edge and unit at
    most of either kind, cycles counted from reset:

        activity UNIT state CYCLE STATE DROPPED         the unit is in this state (a number) from this cycle on
        activity UNIT transfers CYCLE STREAM=N ...      transfers of each stream before this cycle

    A unit's transfers are printed every `period` cycles and when it falls idle. For simulation only: synthesis has no
    use for print statements. Works where printing does: Amaranth's simulator, and Verilog (`$write`).
    """

    def __init__(
        self,
        component: wiring.Component,
        observations: Callable[[Parts], Sequence[Observation]],
        *,
        period: int = 256,
    ) -> None:
        self._component = component
        self._observations = observations
        self._period = period
        super().__init__(component.signature)

    def elaborate(self, platform: Any) -> Elaboratable:
        """The component, elaborated first so that its parts are known, and a monitor and printer for each."""
        m = Module()
        fragment = Fragment.get(self._component, platform)
        m.submodules.component = Elaborated(fragment)
        pass_through(m, self._component, self)
        time = cycle_before(m, TIME_BITS)
        for observation in self._observations({"": self._component, **parts_of(fragment)}):
            self._print(m, observation, time)
        return m

    def _print(self, m: Module, observation: Observation, time: Signal) -> None:
        name = observation.name
        added = monitor(m, observation, time, f"activity_{name}", event_depth=EVENT_DEPTH)
        event = added.o_event
        m.d.comb += event.ready.eq(1)
        with m.If(event.valid):
            m.d.sync += Print(
                Format(f"activity {name} state {{}} {{}} {{}}", event.p.time, event.p.state, added.o_dropped)
            )
        # Counters take in the cycle before at the edge: what they hold are the transfers before that cycle.
        idle_before = Signal(name=f"{name}_idle_before", init=1)
        idle = added.o_state == State.IDLE
        m.d.sync += idle_before.eq(idle)
        counts = " ".join(f"{each.name}={{}}" for each in observation.streams)
        with m.If((time % self._period == 0) | (idle & ~idle_before)):
            m.d.sync += Print(Format(f"activity {name} transfers {{}} {counts}", time, *added.o_transfers))
