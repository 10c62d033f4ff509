# amaranth: UnusedElaboratable=no

"""Sweep programs, exhaustively over weights and over many codebooks."""

import numpy as np
import pytest

from hdl.array.sweep import LONGEST_PROGRAM, STEP_LAYOUT, STEPS_PER_CODEBOOK, run_program, sweep_program, sweep_steps
from sim.contract.codebook import affine_codebook
from sim.contract.constants import WEIGHT_MAX, WEIGHT_MIN
from sim.contract.errors import UserError
from sim.machine import sweep

CORNERS = [
    affine_codebook(),
    affine_codebook()[::-1],
    np.zeros(16, np.int8),
    np.full(16, 15, np.int8),
    np.full(16, -15, np.int8),
    np.array([15] + [-15] * 15, np.int8),
    np.arange(-15, 1).astype(np.int8),
    np.arange(0, 16).astype(np.int8),
]
RANDOM = [np.random.default_rng(seed).integers(-15, 16, 16).astype(np.int8) for seed in range(100)]


def test_every_weight_times_every_level_of_every_codebook() -> None:
    for levels in CORNERS + RANDOM:
        program = sweep_program(levels)
        assert len(program) == sweep_steps(levels)
        assert 16 <= len(program) <= LONGEST_PROGRAM <= STEPS_PER_CODEBOOK
        for weight in range(WEIGHT_MIN, WEIGHT_MAX + 1):
            assert run_program(program, weight) == [weight * int(level) for level in levels]


def test_programs_start_with_a_clear_and_end_once() -> None:
    for levels in CORNERS + RANDOM:
        steps = [STEP_LAYOUT.from_bits(step) for step in sweep_program(levels)]
        assert steps[0].clear == 1
        assert [step.last for step in steps] == [0] * (len(steps) - 1) + [1]


def test_the_layout_of_a_step_is_the_encoding_of_the_programs() -> None:
    assert STEP_LAYOUT.size == sweep.STEP_BITS
    for name in ("write", "clear", "advance", "subtract", "last"):
        assert STEP_LAYOUT.const({name: 1}).as_bits() == getattr(sweep, name.upper())


def test_lengths_that_the_cycle_formula_quotes() -> None:
    assert sweep_steps(affine_codebook()) == 17
    assert sweep_steps(np.arange(16)) == 16
    assert LONGEST_PROGRAM == 46


@pytest.mark.parametrize("levels", [list(range(15)), [16] * 16, [0.5] * 16, [-16] + [0] * 15])
def test_what_is_no_codebook_is_refused(levels: list[int]) -> None:
    with pytest.raises(UserError):
        sweep_program(levels)
