# amaranth: UnusedElaboratable=no

"""The pins of a watched component show the model's state of the very cycle."""

from hdl.activity.observation import observe
from hdl.activity.parts import Parts
from hdl.activity.state import State
from hdl.activity.watched import Watched
from hdl.layer_norm.layer_norm import LayerNormUnit
from hdl.vector.residual import ResidualAdd
from tests.hdl.activity.handshakes import shake

CYCLES = 900


def test_states_of_every_cycle() -> None:
    unit = ResidualAdd(lanes=2)
    watched = Watched(
        unit,
        lambda parts: [observe(parts[""], "first"), observe(parts[""], "again")],
        {"o_first": lambda parts: parts[""].i_first.payload.as_value()[:3]},
    )
    assert watched.units == ["first", "again"]
    assert (len(watched.o_activity), len(watched.o_first)) == (4, 3)
    seen = shake(watched, unit, cycles=CYCLES, seed=3, extra=[watched.o_activity])
    shown = [values[0] for values in seen.extra]
    assert [states & 3 for states in shown] == seen.states.tolist()
    assert [states >> 2 for states in shown] == seen.states.tolist()
    assert set(seen.states.tolist()) >= {State.IDLE, State.BUSY, State.STALLED_OUTPUT}


def test_parts_inside_are_found() -> None:
    found: dict[str, object] = {}

    def observations(parts: Parts) -> list[object]:
        found.update(parts)
        return []

    unit = LayerNormUnit(lanes=2, depth=16, buffers=2, permuted=0)
    Watched(unit, observations)  # type: ignore[arg-type]
    assert found[""] is unit and len(found) > 5
