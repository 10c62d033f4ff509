"""A component that shows, cycle by cycle, what its parts do."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from amaranth.hdl import Cat, Elaboratable, Fragment, Module, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from hdl.activity.observation import Observation
from hdl.activity.observed import pass_through
from hdl.activity.parts import Elaborated, Parts, parts_of
from hdl.activity.state import STATE_BITS, state_of


class Watched(wiring.Component):
    """`component` with its ports, and `o_activity`: the State of every unit of `units` in this very cycle, STATE_BITS
    each, the first in the low bits. Nothing is counted here: whoever reads the pins every cycle does that.

    observations: called with the components inside, returns what to observe. shown: values inside, by the name of the
    output that they are to have. The component is elaborated at once, so it can be used for nothing else.
    """

    def __init__(
        self,
        component: wiring.Component,
        observations: Callable[[Parts], Sequence[Observation]],
        shown: Mapping[str, Callable[[Parts], Value]] | None = None,
    ) -> None:
        self._component, self._fragment = component, Fragment.get(component, None)
        parts = {"": component, **parts_of(self._fragment)}
        self._observations = list(observations(parts))
        self._shown = {name: value(parts) for name, value in (shown or {}).items()}
        self.units = [each.name for each in self._observations]
        super().__init__(
            {
                **component.signature.members,
                "o_activity": Out(STATE_BITS * len(self.units)),
                **{name: Out(len(value)) for name, value in self._shown.items()},
            }
        )

    def elaborate(self, platform: Any) -> Elaboratable:
        """The component, and the states as wires."""
        m = Module()
        m.submodules.component = Elaborated(self._fragment)
        pass_through(m, self._component, self)
        m.d.comb += self.o_activity.eq(Cat(state_of(**each.conditions()) for each in self._observations))
        m.d.comb += [getattr(self, name).eq(value) for name, value in self._shown.items()]
        return m
