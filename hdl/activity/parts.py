"""Components inside a component, by path."""

from collections.abc import Mapping
from typing import Any

from amaranth.hdl import Elaboratable, Fragment
from amaranth.lib import wiring

Parts = Mapping[str, Any]
"""Components inside another one by path, parts of the path separated by dots; the component itself is ""."""


class Elaborated(Elaboratable):
    """A component whose fragment is there already."""

    def __init__(self, fragment: Fragment) -> None:
        self._fragment = fragment

    def elaborate(self, platform: Any) -> Fragment:
        """The fragment, as it is."""
        return self._fragment


def parts_of(fragment: Fragment, path: str = "") -> dict[str, Any]:
    """Components below a fragment by path; fragments without a name, and what is no component, are passed by."""
    found: dict[str, Any] = {}
    for inner, name, _ in fragment.subfragments:
        if name is None:
            continue
        component = next((each for each in inner.origins or () if isinstance(each, wiring.Component)), None)
        if component is not None:
            found[f"{path}{name}"] = component
        found |= parts_of(inner, f"{path}{name}.")
    return found
