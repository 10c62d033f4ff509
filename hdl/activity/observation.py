"""Which signals of a unit tell what it does: read off its signature, completed by what a signature cannot say."""

import enum
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Final

import numpy as np
from amaranth.hdl import Cat, Const, Value
from amaranth.lib import data, stream, wiring
from numpy.typing import NDArray


class Role(enum.Enum):
    """What a stream means for the state of its unit.

    REQUIRED: an input whose `ready` does not look at its `valid`; awaited while ready and not valid.
    ANSWERING: an input whose `ready` follows its `valid`; awaited while not valid. From outside it cannot be told
    whether the unit would take it, so cycles stalled on input are an upper bound.
    SIDE: an input of settings or tables; a transfer is work, the lack of one stalls nothing.
    OUTPUT: blocks the unit while valid and not ready.
    """

    REQUIRED = "required"
    ANSWERING = "answering"
    SIDE = "side"
    OUTPUT = "output"


ROLES: Final[Mapping[str, Mapping[str, Role]]] = {
    "Matmul": {
        "i_codebook": Role.SIDE,
        "i_weights": Role.ANSWERING,
        "i_scale": Role.SIDE,
        "i_bias": Role.SIDE,
    },
    "MultiplyAccumulate": {
        "i_codebook": Role.SIDE,
        "i_weights": Role.ANSWERING,
        "i_scale": Role.SIDE,
        "i_bias": Role.SIDE,
        "control": Role.SIDE,
    },
    "TableLoader": {"i_codebook": Role.SIDE, "i_weights": Role.ANSWERING},
    "GroupRescale": {"i_scale": Role.SIDE, "i_bias": Role.SIDE},
    "Softmax": {"i_threshold": Role.SIDE, "i_logits": Role.ANSWERING, "i_bias": Role.ANSWERING},
    "CodeEncoder": {"i_channels": Role.SIDE, "i_tiles": Role.SIDE, "i_table": Role.SIDE},
    "ResidualAdd": {"i_setting": Role.SIDE, "i_first": Role.ANSWERING, "i_second": Role.ANSWERING},
    "Activation": {"i_table": Role.SIDE, "i_setting": Role.SIDE},
    "DepthwiseConvolution": {"i_channels": Role.SIDE},
    "LayerNormUnit": {"i_parameters": Role.SIDE},
    "Attention": {
        "i_codebook": Role.SIDE,
        "i_threshold": Role.SIDE,
        "i_level": Role.SIDE,
        "i_weights": Role.ANSWERING,
        "i_scale": Role.SIDE,
        "i_bias": Role.SIDE,
        "i_position": Role.ANSWERING,
    },
    "CodeGather": {"i_level": Role.SIDE},
}
"""Class name of a component: the streams whose role its signature does not tell. Inputs are REQUIRED otherwise."""


@dataclass(frozen=True)
class ObservedStream:
    """A stream as its unit sees it; `valid` and `ready` are signals of one bit."""

    name: str
    role: Role
    valid: Any
    ready: Any


@dataclass(frozen=True)
class Observation:
    """Everything that decides on the state of the unit `name`.

    working: one bit, 1 while the unit has work of its own; None takes it for working while an input other than a
    SIDE one, or an output, is valid, and in every cycle if it has no such stream (a pipeline that never stops).
    held: one bit, 1 while the unit is kept by a consumer that no output of its own shows.
    """

    name: str
    streams: Sequence[ObservedStream]
    working: Any = None
    held: Any = 0

    def conditions(self) -> dict[str, Value]:
        """The arguments of hdl.activity.state.state_of."""
        streams = [(each.role, Value.cast(each.valid), Value.cast(each.ready)) for each in self.streams]
        working = None if self.working is None else Value.cast(self.working)
        return _conditions(streams, working, Value.cast(self.held), zero=Const(0, 1), one=Const(1, 1))

    def transfers(self) -> Value:
        """One bit per stream, in order."""
        return Cat(Value.cast(each.valid) & Value.cast(each.ready) for each in self.streams)


def conditions_model(
    roles: Sequence[Role],
    valid: NDArray[np.bool_],
    ready: NDArray[np.bool_],
    *,
    working: NDArray[np.bool_] | None = None,
    held: NDArray[np.bool_] | None = None,
) -> dict[str, NDArray[np.bool_]]:
    """The arguments of hdl.activity.state.state_model from recorded valid and ready, bool (streams, cycles)."""
    cycles = valid.shape[1]
    no, yes = np.zeros(cycles, bool), np.ones(cycles, bool)
    return _conditions(list(zip(roles, valid, ready, strict=True)), working, no if held is None else held, no, yes)


def _conditions(streams: Sequence[tuple[Role, Any, Any]], working: Any, held: Any, zero: Any, one: Any) -> Any:
    """For signals and for recorded arrays alike: both know `&`, `|` and `~`."""

    def some(terms: Iterable[Any]) -> Any:
        return reduce(operator.or_, terms, zero)

    if working is None:
        shown = [valid for role, valid, _ in streams if role is not Role.SIDE]
        working = some(shown) if shown else one
    return {
        "transfer": some(valid & ready for _, valid, ready in streams),
        "blocked": held | some(valid & ~ready for role, valid, ready in streams if role is Role.OUTPUT),
        "awaited": some(ready & ~valid for role, valid, ready in streams if role is Role.REQUIRED)
        | some(~valid for role, valid, _ in streams if role is Role.ANSWERING),
        "working": working,
    }


def observe(component: wiring.Component, name: str) -> Observation:
    """The observation of a component, from its signature and ROLES.

    Streams are ports with a stream signature; ports `i_valid` and `o_valid`, and structures with a field `valid`,
    count as streams that are always ready. `o_busy` or `o_idle` tells whether the component is working.
    """
    roles = ROLES.get(type(component).__name__, {})
    streams: list[ObservedStream] = []
    for port, member in component.signature.members.items():
        role = Role.OUTPUT if member.flow == wiring.Out else roles.get(port, Role.REQUIRED)
        value = getattr(component, port)
        if member.is_signature:
            if isinstance(member.signature, stream.Signature):
                streams.append(ObservedStream(port, role, value.valid, value.ready))
        elif port in ("i_valid", "o_valid"):
            streams.append(ObservedStream(port, role, value, Const(1, 1)))
        elif isinstance(member.shape, data.StructLayout) and "valid" in member.shape.members:
            streams.append(ObservedStream(port, role, value.valid, Const(1, 1)))
    ports = component.signature.members
    working = component.o_busy if "o_busy" in ports else ~component.o_idle if "o_idle" in ports else None
    return Observation(name, streams, working)
