"""Places of blocks in memory: gaps are used again, and large blocks do not meet in a bank of an SDRAM."""

from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest

from hdl.memory.sdram.address import AddressMap
from hdl.memory.sdram.timing import PARTS
from sim.compiler.compile import compile_encoder
from sim.compiler.memory import ROUND, TURN, Allocator, RoomError, shared
from sim.machine.commands import Opcode
from sim.machine.ports import Port
from sim.machine.presets import PRESETS


def bank(address: int) -> int:
    """Of an address in bytes, by the numbers of the controller's cells."""
    part = PARTS["slowest"]
    return AddressMap(part, 128).cell(address // 16) // (part.rows * part.columns)


@pytest.mark.parametrize("base", [0, 64, 832, 5056])
def test_four_large_blocks_meet_in_no_bank_at_any_place(base: int) -> None:
    """base: where the program puts working memory; distances stay."""
    memory = Allocator(turned=True)
    starts = [memory.take(size) for size in (ROUND, 10 * ROUND + 64, 3 * ROUND, ROUND)]
    for one, other in combinations(starts, 2):
        assert all(bank(base + one + at) != bank(base + other + at) for at in range(0, 2 * ROUND, 16))


def test_a_block_comes_where_it_meets_the_fewest_at_no_more_than_a_round_of_memory() -> None:
    memory = Allocator(turned=True)
    first, second, third = (memory.take(ROUND) for _ in range(3))
    before = memory.peak
    memory.free(second)
    assert memory.take(ROUND) == second
    assert memory.peak == before
    memory.free(first)
    taken = memory.take(ROUND - TURN)
    assert {(one - taken) % ROUND for one in (second, third)} <= {TURN, 2 * TURN, 3 * TURN}
    assert memory.peak == before


def test_a_gap_is_used_where_another_place_would_need_more_memory() -> None:
    memory = Allocator(turned=True)
    blocks = [memory.take(16 * ROUND) for _ in range(6)]
    before = memory.peak
    memory.free(blocks[1])
    assert memory.take(16 * ROUND) == blocks[1]
    assert memory.peak == before


def test_small_blocks_and_memory_without_banks_lie_side_by_side() -> None:
    memory = Allocator(turned=True)
    assert [memory.take(64) for _ in range(3)] == [0, 64, 128]
    near = Allocator(1 << 20, ROUND * 2)
    assert [near.take(ROUND), near.take(ROUND)] == [1 << 20, (1 << 20) + ROUND]
    with pytest.raises(RoomError, match="no room for 64 bytes"):
        near.take(1)


def test_operands_of_an_addition_do_not_meet(toy: Any) -> None:
    """With too little near memory for stripes; stored positions, which are constants, aside."""
    program = compile_encoder(toy.parameters, toy.architecture, replace(PRESETS["small"], near_bytes=1 << 12))
    reads = [one for one in program.commands if one.opcode == Opcode.READ and one.port == Port.RESIDUAL_VALUES]
    work = range(program.writable, program.preset.memory_bytes)
    between = [one.strides[0] for one in reads if one.address in work and one.address + one.strides[0] in work]
    assert len(between) >= 4
    assert [shared(distance) for distance in between] == [0.0] * len(between)


@pytest.mark.parametrize("distance", [0, 1024, 1600, 3 * 1024, 6 * 1024 + 512, TURN, 9 * 1024, ROUND - 64])
def test_the_share_of_meetings_is_that_of_the_controller(distance: int) -> None:
    """Summed over all places of a round, four rounds up to look at no border."""
    places = range(4 * ROUND, 5 * ROUND, 16)
    same = sum(bank(place) == bank(place + distance) for place in places)
    assert shared(distance) == pytest.approx(same / len(places), abs=0.03)
