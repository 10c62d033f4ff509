"""Parts that are made from others have the commands that they would have alone."""

import pytest

from sim.compiler.builder import Builder
from sim.compiler.image import NEAR
from sim.compiler.same_parts import SameParts, Shift
from sim.cycles.model import rolled_out
from sim.machine.commands import Command, Opcode
from sim.machine.ports import Port
from sim.machine.presets import PRESETS

MAP = 1 << 12
STEP = 64


class Sums:
    """Part n copies its place of a map and adds to it what is near, the same place for every part."""

    def __init__(self, builder: Builder, *, near: bool) -> None:
        self.builder, self.near, self.lowered = builder, near, 0

    def shape(self, part: int) -> str:
        return "part"

    def lower(self, part: int) -> None:
        self.lowered += 1
        place = MAP + STEP * part
        self.builder.commands += [
            Command(Opcode.WRITE, Port.COPIED, NEAR, (4, 1, 1, 1)),
            Command(Opcode.READ, Port.COPY, place, (4, 1, 1, 1)),
            Command(Opcode.WAIT),
            Command(Opcode.READ, Port.RESIDUAL_VALUES, place, (1, 2, 4, 1), (NEAR - place if self.near else 2, 16, 0)),
        ]

    def shifts(self, there: int, here: int) -> list[Shift]:
        return [(MAP, 2 * MAP, STEP * (here - there))]


@pytest.mark.parametrize("near", [False, True], ids=["one memory", "two memories"])
@pytest.mark.parametrize("parts", [(0, 1, 2, 3), (0, 1, 2, 5, 6, 9), (4, 2, 0)])
def test_made_from_another(parts: tuple[int, ...], near: bool) -> None:
    builders = [Builder(PRESETS["tiny"]) for _ in range(2)]
    made, alone = (Sums(builder, near=near) for builder in builders)
    SameParts(builders[0], made).lower(parts)
    for part in parts:
        alone.lower(part)
    commands = builders[0].commands
    found = [one for one, _ in rolled_out(commands, 0, len(commands)) if one.opcode != Opcode.REPEAT]
    assert [(one.opcode, one.address, one.strides) for one in found] == [
        (one.opcode, one.address, one.strides) for one in builders[1].commands
    ]
    assert made.lowered == 1
