"""What is claimed of a unit, as a circuit around it: free inputs, assumptions, assertions, situations to reach."""

import sys
from types import FrameType
from typing import Any

from amaranth.back import rtlil
from amaranth.hdl import Assert, Assume, ClockDomain, Cover, Module, Mux, Signal, ValueLike


class Opened:
    """A unit as it is elaborated, whose inner signals and memories a statement may name.

    An inductive proof speaks of any state that satisfies the statement, reachable or not; what rules out the
    unreachable ones are relations between the inner registers and the history that the statement keeps.
    """

    def __init__(self, unit: Any, platform: Any = None) -> None:
        self.unit = unit
        self._module, self._variables = _elaborate(unit, platform)
        # From now on the unit elaborates to this very module, to which `memory` may still add a read port.
        unit.elaborate = lambda platform: self._module

    def part(self, name: str) -> "Opened":
        """The submodule that elaborate() calls `name`, opened."""
        return Opened(self.variable(name))

    def variable(self, name: str) -> Any:
        """What elaborate() calls `name` when it ends; LookupError when there is no such variable."""
        if name not in self._variables:
            raise LookupError(f"{type(self.unit).__name__}.elaborate has no variable {name!r}")
        return self._variables[name]

    def memory(self, name: str, address: ValueLike) -> Any:
        """What the memory in submodule `name` holds at `address`."""
        port = getattr(self._module.submodules, name).read_port(domain="comb")
        self._module.d.comb += port.addr.eq(address)
        return port.data


def _elaborate(unit: Any, platform: Any) -> tuple[Module, dict[str, Any]]:
    """The module, and the variables of elaborate(): signals are known by the names that their source gives them."""
    variables: dict[str, Any] = {}
    code = type(unit).elaborate.__code__

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if event == "return" and frame.f_code is code:
            variables.update(frame.f_locals)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        module = unit.elaborate(platform)
    finally:
        sys.setprofile(before)
    return module, variables


class Statement:
    """Collects the claims of one proof and gives their RTLIL, top module `top`.

    There is no reset: a run starts from the initial values that configuration of the device loads.
    """

    def __init__(self) -> None:
        self.m = Module()
        self._sync = ClockDomain("sync", reset_less=True)
        self.m.domains += self._sync
        self._inputs: list[Signal] = []
        self._started = Signal()
        self.m.d.sync += self._started.eq(1)
        self._elapsed: dict[int, Signal] = {0: self._started}
        self.assertions = self.covers = 0

    def unit(self, component: Any, name: str = "unit") -> None:
        """Make a unit part of the circuit."""
        self.m.submodules[name] = component

    def free(self, name: str, shape: Any = 1) -> Any:
        """Any value in any cycle."""
        signal = Signal(shape, name=name)
        self._inputs.append(plain(signal))
        return signal

    def drive(self, port: Any, name: str) -> Any:
        """Give an input of a unit any value in any cycle."""
        value = self.free(name, len(plain(port)))
        self.m.d.comb += plain(port).eq(value)
        return value

    def chosen(self, name: str, shape: Any) -> Signal:
        """Any value, the same in all cycles."""
        first = self.free(f"{name}_choice", shape)
        held, value = Signal(shape, name=f"{name}_held"), Signal(shape, name=name)
        self.m.d.comb += value.eq(Mux(self._started, held, first))
        self.m.d.sync += held.eq(value)
        return value

    def past(self, value: ValueLike, cycles: int = 1) -> Any:
        """`value` so many cycles ago; 0 before the first cycle (see `after`)."""
        for _ in range(cycles):
            source = plain(value)
            earlier = Signal(source.shape(), name="past")
            self.m.d.sync += earlier.eq(source)
            value = earlier
        return value

    def after(self, cycles: int) -> Signal:
        """True from cycle `cycles` on, counted from 0."""
        if cycles < 1:
            raise ValueError("from cycle 1 on at the earliest")
        elapsed = self._started
        for count in range(1, cycles):
            if count not in self._elapsed:
                later = Signal(name=f"elapsed_{count + 1}")
                self.m.d.sync += later.eq(elapsed)
                self._elapsed[count] = later
            elapsed = self._elapsed[count]
        return elapsed

    def always(self, condition: ValueLike) -> None:
        """Claim that `condition` holds in every cycle."""
        self.assertions += 1
        self.m.d.comb += Assert(condition, src_loc_at=1)

    def assume(self, condition: ValueLike) -> None:
        """Consider only runs in which `condition` holds in every cycle."""
        self.m.d.comb += Assume(condition, src_loc_at=1)

    def reach(self, condition: ValueLike) -> None:
        """Demand a run within the assumptions that has a cycle with `condition`."""
        self.covers += 1
        self.m.d.comb += Cover(condition, src_loc_at=1)

    def rtlil(self, platform: Any = None) -> str:
        """The circuit; to be called once."""
        return str(rtlil.convert(self.m, name="top", platform=platform, ports=[self._sync.clk, *self._inputs]))


def plain(value: Any) -> Any:
    """The value of a view, or the value itself."""
    return value.as_value() if hasattr(value, "as_value") else value
