"""The matmul array's RTL against the integer contract: a real layer, directed cases, and faults that must show."""

import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from hdl.array.geometry import PRESETS
from hdl.array.sweep import sweep_steps
from sim.assets import retina_picture
from sim.bench.cases import (
    CODEBOOKS,
    extreme_layer,
    layer_of,
    random_byte_layer,
    random_bytes,
    random_codes,
    random_layer,
    saturation_layer,
    tie_layer,
)
from sim.bench.check import choose_tokens, default_layer
from sim.bench.difference import Difference, compare
from sim.bench.matmul_bench import CompiledMatmul, LayerCase, LayerRun, compile_matmul, run_commands, run_layers
from sim.bench.player import BackPressure, Flip
from sim.bench.schedule import LOAD, RUN, Command, Phase
from sim.contract.constants import SCALE_FRACTION_BITS
from sim.contract.layer import QuantizedLayer
from sim.contract.linear import QuantizedLinear, accumulate, finish, linear
from sim.golden import GoldenModel
from sim.golden.tap import layer_codes
from sim.picture import load_picture

TINY = PRESETS["tiny"]
SMALL = PRESETS["small"]
STALLING = BackPressure(gap=0.25, stall=0.25)
SLOW_READER = BackPressure(stall=0.8)
"""Results come much faster than they are taken: the output FIFO runs full."""

TABLE_ROW = 3
FAULTY_COLUMN = 1
VISIBLE = [(f"matmul.mac.array.tables0.row{TABLE_ROW}", "memory"), ("matmul.mac.rescale", f"scale{FAULTY_COLUMN}")]


@pytest.fixture(scope="module")
def tiny() -> CompiledMatmul:
    return compile_matmul(TINY, visible=VISIBLE)


# A real layer


@pytest.fixture(scope="module")
def real_case(exported_model: Path) -> tuple[LayerCase, NDArray[np.int16]]:
    """The qkv layer of a stage-2 block on one window of the retina: codes, layer, the golden model's results."""
    golden = GoldenModel.from_folder(exported_model)
    name = default_layer(golden)
    codes, wide = choose_tokens(layer_codes(golden, load_picture(retina_picture()), name), 196)
    return (codes, golden.parameters.operation(name, QuantizedLayer).array_form), wide


@pytest.mark.parametrize("back_pressure", [BackPressure(), STALLING], ids=["flowing", "stalling"])
def test_a_real_layer_equals_the_golden_model_in_every_bit(
    real_case: tuple[LayerCase, NDArray[np.int16]], back_pressure: BackPressure
) -> None:
    case, expected = real_case
    codes, layer = case
    assert (codes.shape, layer.out_features) == ((196, 160), 480)
    assert len(np.unique(codes)) == 16, "the window is too plain to prove anything"
    (run,) = run_layers(compile_matmul(SMALL), [case], back_pressure, seed=1)
    difference = compare(run.wide, expected)
    assert difference.differing_bits == 0, str(difference)
    assert difference.outputs == 196 * 480
    commands = run.commands
    # 60 column tiles, and 5 passes of 32 of the 160 inputs; see load_cycles and run_cycles in hdl.matmul
    assert len(commands.predicted) == 2 * 60 * 5
    if back_pressure == STALLING:
        assert (commands.command_cycles >= commands.predicted).all()
        assert run.cycles > 1.2 * run.predicted_cycles
    else:
        assert commands.command_cycles.tolist() == commands.predicted.tolist()
        sweeps = [sweep_steps(layer.codebooks[tile]) for tile in (0, 0, 1, 1, 2)]
        assert run.cycles == run.predicted_cycles == 60 * sum((2 * steps - 1) + (196 + 1) for steps in sweeps)


# Directed and random cases, all of them in one simulation per kind of back-pressure


def _one_of_each_code(layer: QuantizedLinear, codes: int) -> NDArray[np.uint8]:
    return np.repeat(np.arange(codes, dtype=np.uint8)[:, None], layer.in_features, axis=1)


def _codebook_case(levels: list[int]) -> LayerCase:
    """All sixteen codes against all sixteen weights: every entry of every possible product table."""
    weight = np.zeros((16, 16), np.int8)
    weight[:, 0] = np.arange(-8, 8)
    scale, bias = np.full((1, 16), 1 << 15, np.uint16), np.zeros(16, np.int32)
    layer = layer_of(weight, scale, bias, np.array([levels], np.int8))
    return _one_of_each_code(layer, 16), layer


def _cases() -> dict[str, LayerCase]:
    generator = np.random.default_rng(20)
    cases: dict[str, LayerCase] = {}
    for tokens, inputs, outputs in [
        (1, 64, 4),  # a single token
        (2, 1, 1),  # a single input and output, the rest is padding
        (5, 65, 4),  # one input beyond a K tile
        (4, 150, 7),  # neither inputs nor outputs fill their last tile
        (TINY.token_depth, 16, 4),  # token memory full
        (TINY.token_depth + 1, 32, 4),  # and one token more
        (33, 320, 5),  # more codebooks than the array holds: they are replaced on the way
    ]:
        layer = random_layer(generator, inputs, outputs)
        cases[f"{tokens} tokens {inputs} to {outputs}"] = random_codes(generator, layer, tokens), layer
    for number in range(6):
        tokens, inputs, outputs = (int(generator.integers(1, limit)) for limit in (70, 200, 14))
        layer = random_layer(generator, inputs, outputs, scale_limit=1 << int(generator.integers(1, 17)))
        cases[f"random {number}"] = random_codes(generator, layer, tokens), layer
    for name, levels in CODEBOOKS.items():
        cases[f"codebook {name}"] = _codebook_case(levels)
    cases["ties"] = _one_of_each_code(tie_layer(16), 3), tie_layer(16)
    cases["saturation"] = _one_of_each_code(saturation_layer(), 3), saturation_layer()
    for name, sign in (("top", 1), ("bottom", -1)):
        extreme = extreme_layer(52 * 64, 4, sign=sign)  # fewer inputs and the bias do not reach the limit
        cases[f"accumulator at the {name}"] = _one_of_each_code(extreme, 2), extreme
    return cases


def _cases_of_several_passes() -> dict[str, tuple[LayerCase, NDArray[np.int16]]]:
    """Layers of bytes as the array takes them, and what the layer itself gives."""
    generator = np.random.default_rng(21)
    cases: dict[str, tuple[LayerCase, NDArray[np.int16]]] = {}
    for weight_planes in (1, 2):
        layer = random_byte_layer(generator, 80, 7, weight_planes=weight_planes)
        codes = random_bytes(generator, layer, 20)
        cases[f"{layer.passes} passes"] = (layer.array_codes(codes), layer.array_form), layer.wide(codes)
    return cases


SEVERAL_PASSES = _cases_of_several_passes()
CASES = _cases() | {name: case for name, (case, _) in SEVERAL_PASSES.items()}


@pytest.fixture(
    scope="module", params=[BackPressure(), STALLING, SLOW_READER], ids=["flowing", "stalling", "slow-reader"]
)
def case_runs(request: pytest.FixtureRequest, tiny: CompiledMatmul) -> tuple[bool, dict[str, LayerRun]]:
    """Whether nobody stalled, and the run of every case."""
    runs = run_layers(tiny, list(CASES.values()), request.param, seed=7)
    return request.param == BackPressure(), dict(zip(CASES, runs, strict=True))


@pytest.mark.parametrize("name", CASES)
def test_case_equals_the_contract_in_every_bit(case_runs: tuple[bool, dict[str, LayerRun]], name: str) -> None:
    flowing, runs = case_runs
    codes, layer = CASES[name]
    difference = compare(runs[name].wide, linear(codes, layer))
    assert difference.differing_bits == 0, str(difference)
    commands = runs[name].commands
    if flowing:
        assert commands.command_cycles.tolist() == commands.predicted.tolist()
    else:
        assert (commands.command_cycles >= commands.predicted).all()


def test_the_directed_cases_reach_what_they_aim_at() -> None:
    accumulators = {name: accumulate(*case) for name, case in CASES.items()}
    on_tie = accumulators["ties"][0]
    assert (on_tie % 1024 == 512).all()
    assert set((on_tie >> 10).tolist()) == set(range(-8, 8))
    assert [sorted(set(column.tolist())) for column in (accumulators["ties"] - on_tie).T] == [[-1, 0, 1]] * 16
    saturated = finish(accumulators["saturation"])[0].tolist()
    assert saturated == [32766, 32767, 32767, 32767, -32768, -32768, -32768, -32768]
    assert linear(*CASES["saturation"])[2].tolist() == [32766, 32767, 32767, 32767, -32768, -32768, -32768, -32768]
    assert accumulators["accumulator at the top"].max() >= (1 << 35) - 256
    assert accumulators["accumulator at the bottom"].min() <= -(1 << 35) + 512
    wide = np.concatenate([linear(*case).ravel() for name, case in CASES.items() if name.startswith("random")])
    assert len(np.unique(wide)) > 300


@pytest.mark.parametrize("name", SEVERAL_PASSES)
def test_passes_add_up_to_the_layer_of_bytes(case_runs: tuple[bool, dict[str, LayerRun]], name: str) -> None:
    _, expected = SEVERAL_PASSES[name]
    assert str(compare(case_runs[1][name].wide, expected)) == "0 bits of 140 outputs differ"
    assert len(np.unique(expected)) > 30


def test_weights_stay_for_several_runs_and_a_second_load_replaces_the_first(tiny: CompiledMatmul) -> None:
    """LOAD, LOAD, RUN, RUN of one token, RUN without a result, RUN that continues it."""
    generator = np.random.default_rng(5)
    layer = random_layer(generator, 16, 4)
    codes = random_codes(generator, layer, 40)
    other = generator.integers(-8, 8, (16, 4)).astype(np.int8)
    phase = Phase(
        codebooks=[layer.codebooks[0]],
        commands=[
            Command(LOAD, load_bias=True),
            Command(LOAD, load_bias=True),
            Command(RUN, tokens=19, first=True, last=True),
            Command(RUN, tokens=1, first=True, last=True),
            Command(RUN, tokens=10, first=True),
            Command(RUN, tokens=10, last=True),
        ],
        weights=[other, np.ascontiguousarray(layer.weight.T)],
        scale=[layer.scale[0] ^ np.uint16(1), layer.scale[0]],
        bias=[layer.bias + np.int32(1), layer.bias],
        codes=[codes[:19], codes[19:20], codes[20:30], codes[30:]],
        outputs=[(slice(0, 30), slice(0, 4))],
    )
    continued = accumulate(codes[20:30], layer) + accumulate(codes[30:], layer) - layer.aligned_bias()
    expected = np.concatenate([linear(codes[:20], layer), finish(continued)])
    for back_pressure in (BackPressure(), STALLING):
        (run,) = run_commands(tiny, [[phase]], back_pressure)
        assert str(compare(run.transfers[0], expected)) == "0 bits of 120 outputs differ"
    (run,) = run_commands(tiny, [[phase]], BackPressure())
    assert run.command_cycles.tolist() == run.predicted.tolist()


@pytest.mark.parametrize("tokens", [1, 2, 3, 4])
def test_short_runs_continue_each_other_at_once(tiny: CompiledMatmul, tokens: int) -> None:
    """The accumulators of a RUN must be there for the next one, however soon it comes."""
    generator = np.random.default_rng(tokens)
    layer = random_layer(generator, 16, 4)
    parts = [random_codes(generator, layer, tokens) for _ in range(5)]
    runs = [Command(RUN, tokens=tokens, first=number == 0, last=number == 4) for number in range(5)]
    phase = Phase(
        codebooks=[layer.codebooks[0]],
        commands=[Command(LOAD, load_bias=True), *runs],
        weights=[np.ascontiguousarray(layer.weight.T)],
        scale=[layer.scale[0]],
        bias=[layer.bias],
        codes=parts,
        outputs=[(slice(0, tokens), slice(0, 4))],
    )
    (run,) = run_commands(tiny, [[phase]], BackPressure())
    total = sum(accumulate(part, layer) for part in parts) - 4 * layer.aligned_bias()
    difference = compare(run.transfers[0], finish(total))
    assert difference.differing_bits == 0, str(difference)
    assert run.command_cycles.tolist() == run.predicted.tolist()


# The comparison can fail: one fault at a time, and it says where


@pytest.fixture(scope="module")
def fault_case() -> LayerCase:
    """One pass over the tiny array, results well inside the 16-bit range."""
    generator = np.random.default_rng(9)
    layer = random_layer(generator, TINY.rows, TINY.columns, scale_limit=1 << 15)
    layer.scale[:] |= 1 << 10
    return random_codes(generator, layer, TINY.token_depth), layer


def _with_flip(tiny: CompiledMatmul, case: LayerCase, flip: Flip) -> tuple[NDArray[np.int16], Difference]:
    (run,) = run_layers(tiny, [case], BackPressure(), flips=[flip])
    return run.wide, compare(run.wide, linear(*case))


def test_a_flipped_product_table_entry_turns_the_comparison_red(tiny: CompiledMatmul, fault_case: LayerCase) -> None:
    """The sign bit of one product: every token with that code in that row is wrong, in that column only."""
    codes, _ = fault_case
    entry = 5
    sign_bit = 1 << (FAULTY_COLUMN + 1) * TINY.table_bits - 1
    flip = Flip(f"mac/array/tables0/row{TABLE_ROW}/memory", word=entry, mask=sign_bit, after="i_command", transfers=2)
    _, difference = _with_flip(tiny, fault_case, flip)
    tokens = np.flatnonzero(codes[:, TABLE_ROW] == entry)
    assert len(tokens) > 1
    assert difference.places == tuple((int(token), FAULTY_COLUMN) for token in tokens)
    assert difference.differing_bits >= len(tokens)
    assert f"token {tokens[0]} column {FAULTY_COLUMN}" in str(difference)


def test_a_flipped_scale_bit_turns_the_comparison_red(tiny: CompiledMatmul, fault_case: LayerCase) -> None:
    """The results of one column become those of another scale, exactly."""
    codes, layer = fault_case
    bit = 1 << 15
    flip = Flip(f"mac/rescale/scale{FAULTY_COLUMN}", mask=bit, after="i_command", transfers=2)
    wide, difference = _with_flip(tiny, fault_case, flip)
    scale = layer.scale.copy()
    scale[0, FAULTY_COLUMN] ^= bit
    other = linear(codes, layer_of(layer.weight, scale, layer.bias, layer.codebooks))
    assert np.array_equal(wide, other)
    assert difference.places == tuple(map(tuple, np.argwhere(other != linear(codes, layer)).tolist()))
    assert difference.differing_bits > 50
    assert {column for _, column in difference.places} == {FAULTY_COLUMN}


def _without_a_carry(source: str) -> str:
    """The Verilog with one column's accumulator adder cut between bits 15 and 16: that carry is always 0."""
    module = re.search(rf"module \\matmul\.mac\.rescale\.adder{FAULTY_COLUMN} .*?endmodule", source, re.DOTALL)
    assert module is not None, "the accumulator adder of a column is no module of its own any more"
    low, high = "[15:0]", "[35:16]"
    cut, places = re.subn(r"= b \+ (\S+) ;", rf"= {{ b{high} + \1 {high}, b{low} + \1 {low} }};", module[0])
    assert places == 1, "the addition of the accumulator adder has another form now"
    return source.replace(module[0], cut)


def test_a_lost_carry_turns_the_comparison_red(fault_case: LayerCase) -> None:
    """Every token whose addition carries from bit 15 into bit 16 is too small by that much; nothing else changes."""
    codes, layer = fault_case
    faulty = compile_matmul(TINY, mutate=_without_a_carry)
    (run,) = run_layers(faulty, [fault_case], BackPressure())
    expected = linear(codes, layer)
    start = layer.aligned_bias()[FAULTY_COLUMN]
    product = accumulate(codes, layer)[:, FAULTY_COLUMN] - start
    carries = np.flatnonzero((product & 0xFFFF) + (start & 0xFFFF) > 0xFFFF)
    assert 0 < len(carries) < len(codes)
    difference = compare(run.wide, expected)
    assert difference.places == tuple((int(token), FAULTY_COLUMN) for token in carries)
    assert (run.wide - expected)[carries, FAULTY_COLUMN].tolist() == [-(1 << (16 - SCALE_FRACTION_BITS))] * len(carries)
    assert difference.differing_bits >= len(carries)
