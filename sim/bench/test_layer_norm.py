"""The LayerNorm unit's RTL against the integer contract: layers of the exported model, ViT-B's width, faults."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from hdl.layer_norm.layer_norm import LayerNormUnit
from sim.assets import retina_picture
from sim.bench.difference import compare
from sim.bench.layer_norm_bench import NormCase, NormRun, run_layers
from sim.bench.player import BackPressure, Flip
from sim.bench.unit import CompiledUnit, compile_unit
from sim.contract.layer import QuantizedLayer
from sim.contract.layer_norm import NORM_FRACTION_BITS, LayerNorm
from sim.golden import GoldenModel
from sim.golden.parameters import Executed
from sim.picture import load_picture, preprocess

PRESSURES = {
    "flowing": BackPressure(),
    "stalling": BackPressure(gap=0.25, stall=0.25),
    "slow reader": BackPressure(stall=0.8),
}
VISIBLE = [("layer_norm.root", "squares"), ("layer_norm.root", "spread"), ("layer_norm", "scale")]


@pytest.fixture(scope="module")
def one_lane() -> CompiledUnit[LayerNormUnit]:
    return compile_unit(LayerNormUnit(), "layer_norm", visible=VISIBLE)


@pytest.fixture(scope="module")
def four_lanes() -> CompiledUnit[LayerNormUnit]:
    return compile_unit(LayerNormUnit(lanes=4, depth=320, buffers=3), "layer_norm")


def expect_equal(
    compiled: CompiledUnit[LayerNormUnit], cases: list[NormCase], runs: list[NormRun], *, flowing: bool
) -> None:
    """No bit differs; the cycles are those of the formulas, or more when somebody stalls."""
    for case, run in zip(cases, runs, strict=True):
        difference = compare(run.wide, compiled.unit.model(case.layer, case.tokens, case.permutation))
        assert difference.differing_bits == 0, f"{case.layer.name}: {difference}"
        predicted = compiled.unit.cycles(*case.tokens.shape)
        assert run.cycles >= predicted
        if flowing:
            assert (run.latency, run.cycles) == (compiled.unit.latency(case.tokens.shape[1]), predicted)


def random_case(rng: np.random.Generator, tokens: int, channels: int) -> NormCase:
    """Tokens of every scale and mean, in a random order, through a random layer."""
    scale = 2.0 ** rng.uniform(0, 15, (tokens, 1))
    values = rng.normal(0, 1, (tokens, channels)) * scale + rng.uniform(-30000, 30000, (tokens, 1))
    layer = LayerNorm(
        name=f"random {tokens} x {channels}",
        input_exponent=0,
        wide_exponent=0,
        epsilon=int(2.0 ** rng.uniform(0, 60)),
        gain=rng.integers(-(1 << 15), 1 << 15, channels).astype(np.int16),
        bias=rng.integers(-(1 << 31), 1 << 31, channels).astype(np.int32),
        shift=int(rng.integers(12, 20)),
    )
    tokens_16 = np.clip(np.rint(values), -32768, 32767).astype(np.int16)
    return NormCase(layer, tokens_16, rng.permutation(channels))


@pytest.fixture(scope="module")
def real_cases(exported_model: Path) -> list[NormCase]:
    """The LayerNorms of the image encoder on the retina, each with 24 tokens and the order its dense layer wants."""
    golden = GoldenModel.from_folder(exported_model)
    seen: dict[str, Executed] = {}
    orders: dict[str, NDArray[np.integer]] = {}
    last = ""

    def observe(name: str, executed: Executed) -> None:
        nonlocal last
        if isinstance(executed.operation, LayerNorm):
            seen[name], last = executed, name
        elif isinstance(executed.operation, QuantizedLayer) and last and executed.inputs[0] is seen[last].output:
            orders[last] = executed.operation.encoder.permutation
            last = ""

    golden.encode_image(preprocess(load_picture(retina_picture()), golden.architecture.input_format).pixels, observe)
    rng = np.random.default_rng(1)
    cases = []
    for name, executed in seen.items():
        operation = executed.operation
        assert isinstance(operation, LayerNorm)
        values = executed.inputs[0].values.reshape(-1, operation.gain.size)
        rows = rng.choice(len(values), 24, replace=False)
        cases.append(NormCase(operation, values[rows], orders.get(name)))
    return cases


def test_real_layers_equal_the_golden_model_in_every_bit(
    four_lanes: CompiledUnit[LayerNormUnit], real_cases: list[NormCase]
) -> None:
    assert {case.tokens.shape[1] for case in real_cases} >= {128, 160, 256, 320}
    assert any(case.permutation is not None for case in real_cases)
    runs = run_layers(four_lanes, real_cases, BackPressure())
    expect_equal(four_lanes, real_cases, runs, flowing=True)


def test_real_layers_agree_with_float64(four_lanes: CompiledUnit[LayerNormUnit], real_cases: list[NormCase]) -> None:
    """Against LayerNorm in float64 of the same integers: the error is a few of the result's steps at most."""
    for case in real_cases:
        layer = case.layer
        x = case.tokens.astype(np.float64)
        deviation = x - x.mean(-1, keepdims=True)
        variance = np.square(deviation).mean(-1, keepdims=True) + layer.epsilon / layer.gain.size**2
        normalised = deviation / np.sqrt(variance) * 2.0**NORM_FRACTION_BITS
        expected = np.clip((normalised * layer.gain + layer.bias) / 2.0**layer.shift, -32768, 32767)
        error = np.abs(four_lanes.unit.model(layer, case.tokens) - expected)
        # Half a step of the normalised value, times the gain; half a step of the result; 2**-14 of the value.
        gain = np.abs(layer.gain) / 2.0**layer.shift
        bound = gain * (0.5 + np.abs(normalised) * 2.0**-14) + 0.5
        assert (error <= bound + 1e-6).all(), layer.name


@pytest.mark.parametrize("pressure", PRESSURES)
def test_random_layers_of_every_width(
    one_lane: CompiledUnit[LayerNormUnit], four_lanes: CompiledUnit[LayerNormUnit], pressure: str
) -> None:
    rng = np.random.default_rng(3)
    for compiled, shapes in (
        (one_lane, [(9, 768), (5, 767), (30, 1), (12, 23), (1, 100)]),
        (four_lanes, [(40, 160), (8, 320), (30, 1), (30, 3), (20, 31), (1, 319)]),
    ):
        cases = [random_case(rng, tokens, channels) for tokens, channels in shapes]
        runs = run_layers(compiled, cases, PRESSURES[pressure], seed=4)
        expect_equal(compiled, cases, runs, flowing=pressure == "flowing")


def test_a_window_of_vit_b_keeps_up_with_the_array(one_lane: CompiledUnit[LayerNormUnit]) -> None:
    """196 tokens of 768 channels: fewer cycles than qkv takes behind them, 768 * 2304 / 2048 per token."""
    cases = [random_case(np.random.default_rng(5), 196, 768)]
    runs = run_layers(one_lane, cases, BackPressure())
    expect_equal(one_lane, cases, runs, flowing=True)
    assert runs[0].cycles < 196 * 864


@pytest.mark.parametrize(
    ("signal", "bit", "delay"),
    [
        ("root/squares", 40, 5),  # the sum of squares, as soon as it is taken over
        ("root/spread", 33, 19),  # the variance, before it is normalised
        ("scale", 42, 45),  # the highest bit but one of the root, before the lanes have it
    ],
)
def test_a_flipped_bit_turns_the_comparison_red(
    one_lane: CompiledUnit[LayerNormUnit], signal: str, bit: int, delay: int
) -> None:
    """One bit of the middle token's way to its scale, a number of cycles after its last channel: it alone is wrong."""
    layer = LayerNorm("plain", 0, 0, 1, np.full(64, 1 << 12, np.int16), np.zeros(64, np.int32), 12)
    tokens = np.random.default_rng(6).normal(0, 4000, (3, 64)).astype(np.int16)
    flip = Flip(signal, mask=1 << bit, after="i", transfers=2 * 64, delay=delay)
    (run,) = run_layers(one_lane, [NormCase(layer, tokens)], BackPressure(), flips=[flip])
    difference = compare(run.wide, one_lane.unit.model(layer, tokens))
    assert difference.differing_bits > 50, str(difference)
    assert {token for token, _ in difference.places} == {1}
