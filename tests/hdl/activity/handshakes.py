"""Random handshakes on every stream of a unit, recorded."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from amaranth.hdl import Value
from amaranth.lib import wiring
from amaranth.sim import Simulator
from numpy.typing import NDArray

from hdl.activity.observation import Role, conditions_model, observe
from hdl.activity.state import state_model

PHASE = 60
"""Cycles after which every stream draws how often it is offered or taken anew, so that all states last."""


@dataclass(frozen=True)
class Handshakes:
    """valid, ready: bool (streams, cycles). working: bool (cycles,), None where the unit does not tell.

    extra: per cycle what was asked for besides.
    """

    roles: Sequence[Role]
    valid: NDArray[np.bool_]
    ready: NDArray[np.bool_]
    working: NDArray[np.bool_] | None
    extra: list[Any]

    @property
    def states(self) -> NDArray[np.uint8]:
        """The state in every cycle, by the model."""
        return state_model(**conditions_model(self.roles, self.valid, self.ready, working=self.working))

    @property
    def transfers(self) -> NDArray[np.bool_]:
        """Whether there was a transfer: bool (streams, cycles)."""
        return self.valid & self.ready


def shake(
    top: wiring.Component,
    unit: wiring.Component,
    *,
    cycles: int,
    seed: int,
    extra: Sequence[Any] = (),
    each_cycle: Callable[[Any], None] = lambda ctx: None,
    at_end: Callable[[Any], None] = lambda ctx: None,
) -> Handshakes:
    """Offer payloads of 0 and take results at random on `top`, which passes the ports of `unit` through.

    extra: signals to sample in every cycle. each_cycle, at_end: called with the simulator's context.
    """
    rng = np.random.default_rng(seed)
    ports = {each.name: each for each in observe(unit, "unit").streams}
    idle = [unit.o_idle] if "o_idle" in unit.signature.members else []
    handshakes = [signal for port in ports.values() for signal in (port.valid, port.ready)]
    bits: list[list[bool]] = []
    working: list[bool] = []
    sampled: list[Any] = []

    async def bench(ctx: Any) -> None:
        offered = dict.fromkeys(ports, False)
        rate = dict.fromkeys(ports, 0.5)
        for cycle in range(cycles):
            if cycle % PHASE == 0:
                rate = {name: float(rng.choice([0.0, 0.3, 0.95])) for name in ports}
            for name, port in ports.items():
                outer = getattr(top, name)
                if port.role is Role.OUTPUT:
                    ctx.set(outer.ready, int(rng.random() < rate[name]))
                    continue
                if not offered[name] and rng.random() < rate[name]:
                    offered[name] = True
                    ctx.set(Value.cast(outer.payload), 0)
                ctx.set(outer.valid, int(offered[name]))
            each_cycle(ctx)
            _, _, *values = await ctx.tick().sample(*handshakes, *idle, *extra)
            bits.append([bool(value) for value in values[: len(handshakes)]])
            if idle:
                working.append(not values[len(handshakes)])
            sampled.append(values[len(handshakes) + len(idle) :])
            for index, name in enumerate(ports):
                offered[name] &= not (bits[-1][2 * index] and bits[-1][2 * index + 1])
        at_end(ctx)

    simulator = Simulator(top)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    table = np.array(bits).T
    roles = [port.role for port in ports.values()]
    return Handshakes(roles, table[::2], table[1::2], np.array(working) if idle else None, sampled)
