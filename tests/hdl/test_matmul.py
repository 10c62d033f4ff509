# amaranth: UnusedElaboratable=no

"""Matmul against its model: every order of commands, every kind of stall, and the cycle formulas."""

import numpy as np
import pytest

from hdl.array.geometry import ArrayGeometry
from hdl.array.sweep import LONGEST_PROGRAM, sweep_steps
from hdl.matmul import Matmul, command_cycles, load_cycles, run_cycles
from hdl.sequencer import Opcode
from sim.contract.codebook import affine_codebook
from sim.contract.linear import QuantizedLinear, linear
from tests.hdl.matmul_bench import Outcome, Program, play

UNIFORM = affine_codebook().astype(np.int64)
LOGARITHMIC = np.array([0, 1, -1, 2, -2, 3, -3, 4, -4, 6, -6, 8, -8, 12, 15, -15])
GEOMETRY = ArrayGeometry(rows=16, columns=4, loader_rows=8, token_depth=24, codebooks=3, column_group=2)


def check(outcome: Outcome) -> None:
    """Same results in the same order."""
    assert outcome.results.shape == outcome.expected.shape
    assert np.array_equal(outcome.results, outcome.expected)


def random_program(geometry: ArrayGeometry, seed: int, commands: int = 10) -> Program:
    """LOADs and RUNs in any order, with every token continued by RUNs that follow at once."""
    rng = np.random.default_rng(seed)
    program = Program({0: UNIFORM, 1: LOGARITHMIC, 2: rng.integers(-15, 16, 16)})
    program.load(geometry, rng, codebook=int(rng.integers(3)), bias=True)
    known = 0
    for _ in range(commands):
        if rng.random() < 0.35:
            program.load(geometry, rng, codebook=int(rng.integers(3)), bias=bool(rng.integers(2)), scale_bits=14)
            continue
        first = known == 0 or rng.random() < 0.4
        tokens = int(rng.choice([0, 1, 1, 2, 3, 5, geometry.token_depth]))
        tokens = tokens if first else min(tokens, known)
        program.run(geometry, rng, tokens, first=first, last=bool(rng.random() < 0.6))
        known = max(known, tokens)
    return program


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("gap", "stall"), [(0.0, 0.0), (0.5, 0.0), (0.0, 0.7), (0.3, 0.5)], ids=["free", "gaps", "stalls", "both"]
)
def test_random_commands_match_the_model(seed: int, gap: float, stall: float) -> None:
    gaps = dict.fromkeys(("i_command", "i_weights", "i_scale", "i_bias", "i_codes"), gap)
    check(play(Matmul(GEOMETRY), random_program(GEOMETRY, seed), seed=seed, gaps=gaps, stall=stall))


@pytest.mark.parametrize("late", ["i_weights", "i_scale", "i_bias", "i_codes"])
def test_one_late_stream_changes_nothing(late: str) -> None:
    check(play(Matmul(GEOMETRY), random_program(GEOMETRY, 50), gaps={late: 0.95}))


@pytest.mark.parametrize("late", ["i_scale", "i_bias"])
def test_an_operand_that_is_still_being_taken_is_not_taken_twice(late: str) -> None:
    # The sweep is over long before the operand comes, so the next LOAD starts while it is on its way to be taken.
    rng = np.random.default_rng(12)
    program = Program({0: UNIFORM})
    for _ in range(4):
        program.load(GEOMETRY, rng, codebook=0, bias=True)
        program.load(GEOMETRY, rng, codebook=0, bias=late == "i_bias")
        program.run(GEOMETRY, rng, 1)
    check(play(Matmul(GEOMETRY), program, gaps={late: 0.985}))


def test_output_held_for_ever_stops_the_codes_and_loses_nothing() -> None:
    rng = np.random.default_rng(3)
    program = Program({0: UNIFORM})
    program.load(GEOMETRY, rng, codebook=0, bias=True)
    for _ in range(3):
        program.run(GEOMETRY, rng, GEOMETRY.token_depth)
        program.load(GEOMETRY, rng, codebook=0, bias=False)
    program.run(GEOMETRY, rng, 2)
    check(play(Matmul(GEOMETRY, output_depth=4), program, hold=1500))


def test_idle_waits_for_the_last_result_to_be_taken() -> None:
    """The pipeline has long been empty when the reader comes; the bench watches o_idle beside what waits on o."""
    rng = np.random.default_rng(4)
    program = Program({0: UNIFORM})
    program.load(GEOMETRY, rng, codebook=0, bias=True)
    program.run(GEOMETRY, rng, 3)
    check(play(Matmul(GEOMETRY), program, hold=200))


@pytest.mark.parametrize("tokens", [1, 2, 3, 4])
def test_continued_tokens_are_stored_before_they_are_read(tokens: int) -> None:
    rng = np.random.default_rng(tokens)
    program = Program({0: UNIFORM})
    program.load(GEOMETRY, rng, codebook=0, bias=True)
    program.run(GEOMETRY, rng, tokens, last=False)
    for turn in range(5):
        program.run(GEOMETRY, rng, tokens, first=False, last=turn % 2 == 0)
    check(play(Matmul(GEOMETRY), program))


@pytest.mark.parametrize("loader_rows", [4, 16])
def test_tables_are_rewritten_behind_the_last_code(loader_rows: int) -> None:
    geometry = ArrayGeometry(rows=16, columns=8, loader_rows=loader_rows, token_depth=8, codebooks=3, column_group=1)
    rng = np.random.default_rng(loader_rows)
    program = Program({0: UNIFORM, 1: LOGARITHMIC, 2: np.array([-15, 15, *[0] * 14])})
    for turn in range(4):
        program.load(geometry, rng, codebook=turn % 3, bias=True)
        program.run(geometry, rng, 4 - turn, first=turn % 2 == 0, last=True)
    check(play(Matmul(geometry), program))


def test_cycles_are_those_of_the_formulas() -> None:
    program = random_program(GEOMETRY, 77, commands=30)
    outcome = play(Matmul(GEOMETRY), program)
    check(outcome)
    assert outcome.cycles == command_cycles(GEOMETRY, program.commands, program.codebooks)


def test_back_to_back_loads_keep_the_formula_at_the_widest_broadcast() -> None:
    geometry = ArrayGeometry(rows=64, columns=8, loader_rows=64, token_depth=4, codebooks=1, column_group=1)
    rng = np.random.default_rng(5)
    shortest = np.array([*range(8)] * 2)
    program = Program({0: shortest})
    for _ in range(3):
        program.load(geometry, rng, codebook=0, bias=True)
    program.run(geometry, rng, 1)
    outcome = play(Matmul(geometry), program)
    check(outcome)
    load = load_cycles(geometry, shortest)
    assert outcome.cycles == [load + 2, load + 2, load, run_cycles(1)]


def test_a_tile_of_sixty_four_rows_reloads_within_eighty_cycles() -> None:
    assert load_cycles(ArrayGeometry(rows=64, columns=32, loader_rows=16), UNIFORM) == 67
    assert sweep_steps(UNIFORM) == 17
    assert LONGEST_PROGRAM == 46


def test_a_layer_in_passes_is_the_layer_of_the_contract() -> None:
    rng = np.random.default_rng(11)
    tokens, inputs, outputs = 7, 100, GEOMETRY.columns
    tiles = 2
    layer = QuantizedLinear(
        name="layer",
        weight=rng.integers(-8, 8, (outputs, inputs)).astype(np.int8),
        scale=rng.integers(1, 1 << 16, (tiles, outputs)).astype(np.uint16),
        bias=rng.integers(-(1 << 20), 1 << 20, outputs).astype(np.int32),
        codebooks=np.stack([UNIFORM, LOGARITHMIC]).astype(np.int8),
        wide_exponent=0,
    )
    codes = rng.integers(0, 16, (tokens, inputs)).astype(np.uint8)
    weight, padded = np.zeros((128, outputs), np.int64), np.zeros((tokens, 128), np.int64)
    weight[:inputs], padded[:, :inputs] = layer.weight.T, codes
    program = Program({0: UNIFORM, 1: LOGARITHMIC}, bias=[layer.bias.astype(np.int64)])
    for start in range(0, 112, GEOMETRY.rows):
        rows = slice(start, start + GEOMETRY.rows)
        program.commands.append({"opcode": Opcode.LOAD, "codebook": start // 64, "load_bias": int(start == 0)})
        program.commands.append(
            {"opcode": Opcode.RUN, "tokens": tokens, "first": int(start == 0), "last": int(start == 96)}
        )
        program.weights.append(weight[rows])
        program.scale.append(layer.scale[start // 64].astype(np.int64))
        program.codes.append(padded[:, rows])
    outcome = play(Matmul(GEOMETRY), program)
    check(outcome)
    assert np.array_equal(outcome.results, linear(codes, layer))


def test_the_model_refuses_tokens_that_were_never_accumulated() -> None:
    rng = np.random.default_rng(1)
    program = Program({0: UNIFORM})
    program.load(GEOMETRY, rng, codebook=0, bias=True)
    program.run(GEOMETRY, rng, 2, first=False)
    with pytest.raises(ValueError, match="never accumulated"):
        Matmul.model(
            GEOMETRY,
            program.commands,
            codebooks=program.codebooks,
            weights=program.weights,
            scale=program.scale,
            bias=program.bias,
            codes=program.codes,
        )


@pytest.mark.parametrize("depth", [1, 513])
def test_output_depth_is_checked(depth: int) -> None:
    with pytest.raises(ValueError, match="nearest valid value"):
        Matmul(GEOMETRY, output_depth=depth)
