# amaranth: UnusedElaboratable=no

"""The LayerNorm unit against its model, bit for bit, and its cycles against the formulas."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hdl.harness import Harness
from hdl.layer_norm.layer_norm import LayerNormUnit
from hdl.units import build_unit
from sim.contract.layer_norm import NORM_FRACTION_BITS, LayerNorm
from tests.hdl.layer_norm.bench import Job, check, layer_of, play

SHAPES: list[dict[str, int]] = [
    {"lanes": 1, "depth": 64},
    {"lanes": 2, "depth": 64},
    {"lanes": 4, "depth": 64, "buffers": 3},
    {"lanes": 1, "depth": 40, "permuted": 0},
    {"lanes": 2, "depth": 41, "permuted": 0, "buffers": 4},
    {"lanes": 4, "depth": 64, "permuted": 0},
]


def random_tokens(rng: np.random.Generator, tokens: int, channels: int) -> NDArray[np.int16]:
    """Tokens of every scale, with a mean of their own."""
    scale = 2.0 ** rng.uniform(0, 14, (tokens, 1))
    mean = rng.uniform(-20000, 20000, (tokens, 1))
    values = rng.normal(0, 1, (tokens, channels)) * scale + mean
    return np.clip(np.rint(values), -32768, 32767).astype(np.int16)


def directed_tokens(channels: int) -> NDArray[np.int16]:
    """Constant tokens, both limits, one outlier, the widest swing, a single step."""
    alternating = np.where(np.arange(channels) % 2, 32767, -32768)
    outlier = np.full(channels, -5)
    outlier[channels // 2] = 32767
    lowest = np.full(channels, 32767)
    lowest[-1] = -32768
    step = np.zeros(channels)
    step[0] = 1
    rows = [np.zeros(channels), np.full(channels, 32767), np.full(channels, -32768), alternating, outlier, lowest, step]
    return np.array(rows).astype(np.int16)


def job_of(dut: LayerNormUnit, rng: np.random.Generator, tokens: NDArray[np.int16], **layer: Any) -> Job:
    """Tokens with a random layer, in a random order where the unit has one."""
    channels = tokens.shape[1]
    order = rng.permutation(channels) if dut.geometry.permuted else None
    return Job(layer_of(rng, channels, **layer), tokens, order)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "-".join(f"{k}{v}" for k, v in shape.items()))
def test_bits_and_cycles_when_nobody_stalls(shape: dict[str, int]) -> None:
    rng = np.random.default_rng(5)
    dut = LayerNormUnit(**shape)
    jobs = [
        job_of(dut, rng, random_tokens(rng, tokens, channels))
        for tokens, channels in [(6, 1), (7, dut.geometry.depth), (5, 33), (1, 5)]
    ]
    runs = play(dut, jobs)
    check(dut, jobs, runs)
    for job, run in zip(jobs, runs, strict=True):
        tokens, channels = job.tokens.shape
        assert (run.latency, run.cycles) == (dut.latency(channels), dut.cycles(tokens, channels)), (tokens, channels)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "-".join(f"{k}{v}" for k, v in shape.items()))
@pytest.mark.parametrize(
    ("gaps", "stall", "hold"),
    [
        ({"i": 0.3, "i_parameters": 0.2, "i_command": 0.5}, 0.4, 0),
        ({}, 0.9, 300),  # the output FIFO fills, then all buffers
    ],
    ids=["both", "slow-reader"],
)
def test_gaps_and_back_pressure_change_no_bit(
    shape: dict[str, int], gaps: dict[str, float], stall: float, hold: int
) -> None:
    rng = np.random.default_rng(6)
    dut = LayerNormUnit(**shape)
    jobs = [job_of(dut, rng, random_tokens(rng, tokens, channels)) for tokens, channels in [(5, 29), (8, 1)]]
    runs = play(dut, jobs, seed=3, gaps=gaps, stall=stall, hold=hold)
    check(dut, jobs, runs)
    for job, run in zip(jobs, runs, strict=True):
        assert run.cycles >= dut.cycles(*job.tokens.shape)


@pytest.mark.parametrize(("lanes", "channels"), [(1, 1), (1, 31), (4, 2), (4, 64)])
def test_directed_tokens_and_the_limits_of_a_layer(lanes: int, channels: int) -> None:
    rng = np.random.default_rng(channels)
    dut = LayerNormUnit(lanes=lanes, depth=64)
    tokens = directed_tokens(channels)
    jobs = [
        job_of(dut, rng, tokens, epsilon=1),
        job_of(dut, rng, tokens, epsilon=1 << 60),
        job_of(dut, rng, tokens, epsilon=1, shift=0, bias_limit=1 << 31),
        job_of(dut, rng, tokens, epsilon=7, shift=40, bias_limit=1 << 31),
        job_of(dut, rng, tokens, epsilon=12345, shift=16, bias_limit=1 << 31),
        job_of(dut, rng, tokens, epsilon=1, shift=1, gain_limit=4, bias_limit=8),  # ties
    ]
    runs = play(dut, jobs)
    check(dut, jobs, runs)
    assert not runs[3].results.any()
    if channels > 2:
        assert {-32768, 32767} <= set(np.unique(runs[2].results).tolist())
        assert np.unique(runs[5].results).size > 20


def test_channels_of_vit_b_and_of_tiny_vit() -> None:
    """768 channels with one lane, 160 with four: results, and the cycles that an array of 2,048 MAC leaves."""
    rng = np.random.default_rng(7)
    dut = LayerNormUnit()
    jobs = [job_of(dut, rng, np.concatenate([random_tokens(rng, 2, 768), directed_tokens(768)[3:5]]))]
    (run,) = play(dut, jobs)
    check(dut, jobs, [run])
    assert run.cycles == dut.cycles(4, 768)
    assert (dut.cycles(104, 768) - dut.cycles(4, 768)) / 100 <= 768 * 2304 / 2048

    dut = LayerNormUnit(lanes=4, depth=160, buffers=3)
    jobs = [job_of(dut, rng, random_tokens(rng, 8, 160))]
    (run,) = play(dut, jobs)
    check(dut, jobs, [run])
    assert run.cycles == dut.cycles(8, 160)
    # Three K tiles of 64 inputs, fifteen column tiles of 32 outputs
    assert (dut.cycles(108, 160) - dut.cycles(8, 160)) / 100 <= 3 * 15


def test_the_deepest_unit_takes_the_widest_tokens() -> None:
    """4,096 channels at their limits: the largest sums, squares and deviations there are."""
    rng = np.random.default_rng(8)
    dut = LayerNormUnit(lanes=4, depth=4096)
    jobs = [job_of(dut, rng, directed_tokens(4096)[2:5], epsilon=1), job_of(dut, rng, random_tokens(rng, 1, 4093))]
    runs = play(dut, jobs)
    check(dut, jobs, runs)
    for job, run in zip(jobs, runs, strict=True):
        assert run.cycles == dut.cycles(*job.tokens.shape)


def test_steady_state_is_the_rate_of_the_docstring() -> None:
    for shape, channels in [
        ({}, 768),
        ({"permuted": 0}, 768),
        ({"buffers": 3}, 768),
        ({"lanes": 4, "buffers": 3}, 160),
        ({}, 10),
    ]:
        dut = LayerNormUnit(**shape)
        groups = dut.geometry.groups(channels)
        rate = max(groups, dut.turnaround, (2 * groups + dut.turnaround + dut.release - 2) / dut.geometry.buffers)
        measured = (dut.cycles(1212, channels) - dut.cycles(12, channels)) / 1200
        assert measured == pytest.approx(rate, abs=0.01), (shape, channels)


def test_an_order_may_name_a_channel_twice_and_a_command_may_have_no_tokens() -> None:
    rng = np.random.default_rng(9)
    dut = LayerNormUnit(lanes=2, depth=16)
    layer = layer_of(rng, 6)
    jobs = [
        Job(layer, np.zeros((0, 6), np.int16)),
        Job(layer, random_tokens(rng, 3, 6), np.array([5, 5, 0, 0, 1, 5])),
    ]
    check(dut, jobs, play(dut, jobs))


def test_results_agree_with_layer_norm_in_float64() -> None:
    """A layer as it is exported: the error is that of the input's and the output's steps."""
    rng = np.random.default_rng(10)
    channels, exponent = 160, -11
    gain, bias = rng.uniform(0.5, 1.2, channels), rng.normal(0, 0.5, channels)
    shift = 13
    layer = LayerNorm(
        name="norm",
        input_exponent=-8,
        wide_exponent=exponent,
        epsilon=max(1, round(1e-5 * channels**2 * 4.0**8)),
        gain=np.rint(gain * 2.0 ** (shift - NORM_FRACTION_BITS - exponent)).astype(np.int16),
        bias=np.rint(bias * 2.0 ** (shift - exponent)).astype(np.int32),
        shift=shift,
    )
    real = rng.normal(0, 1, (12, channels)) * rng.uniform(0.3, 8, (12, 1)) + rng.normal(0, 3, (12, 1))
    real[:, 17] *= 8  # an outlier channel
    tokens = np.rint(real * 2.0**8).astype(np.int16)
    dut = LayerNormUnit(lanes=4, depth=160)
    (run,) = play(dut, [Job(layer, tokens)])
    steps = tokens * 2.0**-8
    centred = steps - steps.mean(-1, keepdims=True)
    expected = centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + 1e-5) * gain + bias
    error = np.abs(run.results * 2.0**exponent - expected)
    assert np.abs(expected).max() < 16 - 2.0**exponent
    # Half a step each of normalised value (times the gain) and of the result; 2**-14 of the value for the root, and
    # less than that for the gain's own rounding.
    bound = gain * 2.0 ** -(NORM_FRACTION_BITS + 1) + 2.0 ** (exponent - 1) + 2.0**-13 * np.abs(expected - bias) + 1e-6
    assert (error <= bound).all()
    assert error.mean() < 2.0**exponent


@pytest.mark.parametrize("parameters", [{}, {"lanes": "4", "permuted": "0"}])
def test_the_unit_elaborates_for_ecp5(parameters: dict[str, str]) -> None:
    component, macs = build_unit("layer_norm", parameters)
    text = Harness(component).rtlil()
    lanes = int(parameters.get("lanes", 1))
    assert text.count("cell \\MULT18X18D") == 1 + 5 * lanes
    assert macs is None
