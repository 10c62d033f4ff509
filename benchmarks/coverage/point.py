"""A named functional point: a condition on signals of one component, sampled at every clock edge."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any

from amaranth.hdl import Const, Module, Signal, Value
from amaranth.lib.wiring import Component

from hdl.pipeline import delay


@dataclass(frozen=True)
class Point:
    """Hit when `condition`, an expression of one bit, is true before a clock edge while a test simulates `component`.

    alone: counts only in tests that simulate the component by itself, and so compare every cycle: for pipelines
    without a valid of their own.
    """

    unit: str
    name: str
    component: type[Component]
    condition: Callable[["View"], Any]
    alone: bool = False

    @property
    def title(self) -> str:
        """How the point is told from all others."""
        return f"{self.unit}: {self.name}"


class View:
    """Local names of an elaboration as attributes: those of `elaborate`, or by call those of another method.

    Of names that a loop binds again and again, the last stands: the last lane, column or column group.
    """

    def __init__(self, component: Component, module: Module, frames: dict[str, dict[str, Any]]) -> None:
        self._component, self._module, self._frames = component, module, frames

    def __getattr__(self, name: str) -> Any:
        return self._frames["elaborate"][name]

    def __call__(self, method: str) -> "View":
        """The names of another method that `elaborate` called."""
        return View(self._component, self._module, {"elaborate": self._frames[method]})

    @property
    def unit(self) -> Any:
        """The component: its ports and sizes."""
        return self._component

    def later(self, value: Any, cycles: int) -> Any:
        """`value` some cycles later, from 0 on: marks that travel beside data."""
        place = Signal(len(Value.cast(value)), name="probe")
        self._module.d.comb += place.eq(value)
        return delay(self._module, place, cycles, "probe", reset_less=False)

    def when(self, enable: Any, value: Any) -> Signal:
        """`value` as it was when `enable` was true last."""
        kept = Signal(len(Value.cast(value)), name="probe_held")
        with self._module.If(enable):
            self._module.d.sync += kept.eq(value)
        return kept

    def ever(self, condition: Any) -> Signal:
        """Whether `condition` was true in an earlier cycle."""
        return self.when(condition, Const(1, 1))


def elaborate_in_view(elaborate: Callable[..., Module], component: Component, platform: Any) -> tuple[Module, View]:
    """The module of a component's `elaborate`, and a view of the names that it and its methods had at their return."""
    frames: dict[str, dict[str, Any]] = {}
    file = elaborate.__code__.co_filename

    def profile(frame: FrameType, event: str, _argument: Any) -> None:
        if event == "return" and frame.f_code.co_filename == file:
            frames[frame.f_code.co_name] = dict(frame.f_locals)

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        module = elaborate(component, platform)
    finally:
        sys.setprofile(before)
    return module, View(component, module, frames)


def conditions(points: list[Point], view: View) -> list[Value]:
    """The points' conditions as bits."""
    return [Value.cast(point.condition(view)).bool() for point in points]
