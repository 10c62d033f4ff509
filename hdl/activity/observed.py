"""A unit with counters and an event stream beside it."""

from typing import Any

from amaranth.hdl import Elaboratable, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from hdl.activity.monitor import cycle_before, monitor, report_ports
from hdl.activity.observation import observe


class Observed(wiring.Component):
    """`unit` with all its ports, and the outputs of an ActivityMonitor as `activity_o_...`.

    The unit itself is not changed: its module is the one that it has without. `streams` names the elements of
    `activity_o_transfers`. counter_bits, time_bits, event_depth: of ActivityMonitor; raises ValueError as it does.
    """

    def __init__(
        self, unit: wiring.Component, *, counter_bits: int = 32, time_bits: int = 32, event_depth: int = 4
    ) -> None:
        self._unit = unit
        self._observation = observe(unit, type(unit).__name__)
        self._time_bits = time_bits
        self._sizes = {"counter_bits": counter_bits, "event_depth": event_depth}
        self.streams = [each.name for each in self._observation.streams]
        self._reported = report_ports(streams=len(self.streams), counter_bits=counter_bits, time_bits=time_bits)
        reported = {f"activity_{port}": member for port, member in self._reported.items()}
        super().__init__({**unit.signature.members, **reported})

    def elaborate(self, platform: Any) -> Elaboratable:
        """The unit, the time, the monitor."""
        m = Module()
        m.submodules.unit = self._unit
        pass_through(m, self._unit, self)
        time = cycle_before(m, self._time_bits)
        added = monitor(m, self._observation, time, "activity", **self._sizes)
        for port in self._reported:
            _pass(m, added, port, getattr(self, f"activity_{port}"))
        return m


def pass_through(m: Module, inside: wiring.Component, outside: wiring.Component) -> None:
    """Connect every port of `inside` to the port of the same name of the module `m` around it."""
    for port in inside.signature.members:
        _pass(m, inside, port, getattr(outside, port))


def _pass(m: Module, inside: wiring.Component, port: str, outer: Any) -> None:
    member, inner = inside.signature.members[port], getattr(inside, port)
    if member.is_signature:
        wiring.connect(m, inner, wiring.flipped(outer))
    elif member.flow == Out:
        m.d.comb += outer.eq(inner)
    else:
        m.d.comb += inner.eq(outer)
