"""The RTL of encoder, residual, activation and depthwise against the integer contract, and faults that must show."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from numpy.typing import NDArray

from hdl.vector.activation import Activation
from hdl.vector.depthwise import DepthwiseConvolution
from hdl.vector.encoder import CodeEncoder
from hdl.vector.residual import ResidualAdd
from sim.assets import retina_picture
from sim.bench.player import BackPressure, Flip
from sim.bench.unit import CompiledUnit, compile_unit, run_jobs
from sim.bench.vector_bench import (
    activation_job,
    depthwise_job,
    depthwise_map,
    encoder_codes,
    encoder_job,
    residual_job,
    values_of,
)
from sim.bench.vector_cases import BYTES, HYBRID, SUMS, UNIFORM, gelu, random_depthwise, random_encoder, random_wide
from sim.contract.activation_table import ActivationTable, sample_function
from sim.contract.depthwise import Depthwise
from sim.contract.encoder import Encoder
from sim.contract.layer import QuantizedLayer
from sim.contract.residual import Residual
from sim.contract.serialize import Operation
from sim.golden import GoldenModel
from sim.golden.parameters import Executed
from sim.picture import load_picture, preprocess

Kind = TypeVar("Kind", bound=Operation)

PRESSURES = {
    "flowing": BackPressure(),
    "stalling": BackPressure(gap=0.25, stall=0.25),
    "slow reader": BackPressure(stall=0.8),
}


@pytest.fixture(scope="module")
def encoder_unit() -> CompiledUnit[CodeEncoder]:
    return compile_unit(CodeEncoder(lanes=4, channels=320, tables=5), "encoder", visible=[("encoder.shift0", "moved4")])


@pytest.fixture(scope="module")
def residual_unit() -> CompiledUnit[ResidualAdd]:
    return compile_unit(ResidualAdd(lanes=4), "residual", visible=[("residual", "total0")])


@pytest.fixture(scope="module")
def activation_unit() -> CompiledUnit[Activation]:
    return compile_unit(Activation(lanes=2), "activation", visible=[("activation", "total0")])


@pytest.fixture(scope="module")
def depthwise_unit() -> CompiledUnit[DepthwiseConvolution]:
    unit = DepthwiseConvolution(lanes=2, columns=64)
    return compile_unit(unit, "depthwise", visible=[("depthwise.shift0", "moved4")])


@pytest.mark.parametrize("pressure", PRESSURES)
def test_codes_equal_the_contract_in_every_bit(encoder_unit: CompiledUnit[CodeEncoder], pressure: str) -> None:
    """One level set for all tiles and one for each, nibbles and bytes, tokens of one transfer and of eighty."""
    rng = np.random.default_rng(1)
    level_sets = [UNIFORM, HYBRID, HYBRID // 2 + UNIFORM, UNIFORM * 3, HYBRID[::-1] * -1 - 1]
    encoders = [
        random_encoder(rng, 320, *level_sets),
        random_encoder(rng, 149, HYBRID),
        random_encoder(rng, 64, BYTES),
        random_encoder(rng, 3, UNIFORM),
    ]
    values = [random_wide(rng, 1 + 800 // encoder.channels, encoder.channels) for encoder in encoders]
    jobs = [encoder_job(encoder_unit.unit, *pair) for pair in zip(encoders, values, strict=True)]
    results = run_jobs(encoder_unit, jobs, PRESSURES[pressure], seed=2)
    for encoder, tokens, result in zip(encoders, values, results, strict=True):
        codes = encoder_codes(encoder_unit.unit, encoder, result)
        assert np.count_nonzero(codes != CodeEncoder.model(encoder, tokens)) == 0, encoder.name
        if pressure == "flowing":
            expect_flow(result.transfer_cycles["i"], result.transfer_cycles["o"], encoder_unit.unit.latency)
    assert len(np.unique(encoder_codes(encoder_unit.unit, encoders[1], results[1]))) > 12
    assert len(np.unique(encoder_codes(encoder_unit.unit, encoders[2], results[2]))) > 150


@pytest.mark.parametrize("pressure", PRESSURES)
def test_sums_equal_the_contract_in_every_bit(residual_unit: CompiledUnit[ResidualAdd], pressure: str) -> None:
    rng = np.random.default_rng(3)
    residuals = [Residual(f"sum {exponents}", *exponents) for exponents in SUMS]
    pairs = [(random_wide(rng, 160), rng.permutation(random_wide(rng, 160))) for _ in residuals]
    jobs = [residual_job(residual_unit.unit, one, *pair) for one, pair in zip(residuals, pairs, strict=True)]
    results = run_jobs(residual_unit, jobs, PRESSURES[pressure], seed=4)
    seen = set()
    for residual, pair, result in zip(residuals, pairs, results, strict=True):
        found = values_of(residual_unit.unit, result)
        assert np.count_nonzero(found != ResidualAdd.model(residual, *pair)) == 0, residual.name
        seen |= set(found.tolist())
        if pressure == "flowing":
            expect_flow(result.transfer_cycles["i_first"], result.transfer_cycles["o"], ResidualAdd.LATENCY)
    assert {-32768, 32767} <= seen


@pytest.mark.parametrize("pressure", PRESSURES)
def test_activations_equal_the_contract_in_every_bit(activation_unit: CompiledUnit[Activation], pressure: str) -> None:
    """GELU, and wild tables with every segment size, whose lines leave 16 bits beyond the last sample."""
    rng = np.random.default_rng(5)
    tables = [sample_function("GELU", gelu, -11, -11)]
    for bits in range(7):
        samples = rng.integers(-(1 << 15), 1 << 15, 1025).astype(np.int16)
        tables.append(ActivationTable(f"wild, 2**{bits} steps", 0, 0, samples, bits))
    values = [random_wide(rng, 1200 if table.name == "GELU" else 300) for table in tables]
    jobs = [activation_job(activation_unit.unit, *pair) for pair in zip(tables, values, strict=True)]
    results = run_jobs(activation_unit, jobs, PRESSURES[pressure], seed=6)
    for table, inputs, result in zip(tables, values, results, strict=True):
        found = values_of(activation_unit.unit, result)
        assert np.count_nonzero(found != Activation.model(table, inputs)) == 0, table.name
        if pressure == "flowing":
            expect_flow(result.transfer_cycles["i"], result.transfer_cycles["o"], Activation.LATENCY)


@pytest.mark.parametrize("pressure", PRESSURES)
def test_convolutions_equal_the_contract_in_every_bit(
    depthwise_unit: CompiledUnit[DepthwiseConvolution], pressure: str
) -> None:
    """Both strides, odd and even sizes, the widest map and the smallest, a last pass with a spare lane."""
    rng = np.random.default_rng(7)
    shapes = [((9, 12, 5), 1, 28), ((10, 13, 4), 2, 24), ((4, 64, 3), 1, 31), ((1, 3, 7), 2, 0), ((2, 3, 4), 1, 44)]
    layers = [random_depthwise(rng, shape[2], stride, shift) for shape, stride, shift in shapes]
    maps = [random_wide(rng, *shape) for shape, _, _ in shapes]
    for values in maps:
        values[: len(values) // 2, :, 0] = -(1 << 15)  # with weights of -128: the largest sum there is
    unit = depthwise_unit.unit
    jobs = [depthwise_job(unit, layer, values) for layer, values in zip(layers, maps, strict=True)]
    results = run_jobs(depthwise_unit, jobs, PRESSURES[pressure], seed=8)
    for layer, values, result in zip(layers, maps, results, strict=True):
        found = depthwise_map(unit, layer, values.shape, result)
        assert np.count_nonzero(found != DepthwiseConvolution.model(layer, values)) == 0, layer.name
    if pressure == "flowing":
        # The first result is centred on pixel 0 and needs the pixel below and right of it.
        entered, left = results[0].transfer_cycles["i"], results[0].transfer_cycles["o"]
        assert left[0] - entered[12 + 1] == depthwise_unit.unit.latency
        passes = np.diff(entered[:: 9 * 12])
        assert passes.tolist() == [9 * 12 + 12 + 2] * 2


Sample = tuple[Operation, list[NDArray[np.int16]]]


@pytest.fixture(scope="module")
def real(exported_model: Path) -> list[Sample]:
    """Every operation of the image encoder with the first eight rows, or windows, of its inputs on the retina."""
    golden = GoldenModel.from_folder(exported_model)
    seen: list[Sample] = []

    def observe(_: str, executed: Executed) -> None:
        seen.append((executed.operation, [wide.values[:8].copy() for wide in executed.inputs]))

    golden.encode_image(preprocess(load_picture(retina_picture()), golden.architecture.input_format).pixels, observe)
    return seen


def some(real: Sequence[Sample], kind: type[Kind], count: int = 6) -> list[tuple[Kind, list[NDArray[np.int16]]]]:
    """Operations of a kind, evenly spread over the network, and their inputs."""
    found = [(operation, inputs) for operation, inputs in real if isinstance(operation, kind)]
    return [found[index] for index in np.linspace(0, len(found) - 1, min(count, len(found))).astype(int)]


def test_real_operations_equal_the_golden_model_in_every_bit(
    real: list[Sample],
    encoder_unit: CompiledUnit[CodeEncoder],
    residual_unit: CompiledUnit[ResidualAdd],
    activation_unit: CompiledUnit[Activation],
    depthwise_unit: CompiledUnit[DepthwiseConvolution],
) -> None:
    """Some of each kind, few of their tokens (rows and channels of a depthwise map), with everybody stalling."""
    pressure = PRESSURES["stalling"]
    narrow = [one for one in real if isinstance(one[0], QuantizedLayer) and one[0].encoder.channels <= 320]
    encoders = [
        (layer.encoder, tokens.reshape(-1, layer.encoder.channels)[:8])
        for layer, (tokens,) in some(narrow, QuantizedLayer)
    ]
    assert {encoder.code_planes for encoder, _ in encoders} == {1, 2}
    jobs = [encoder_job(encoder_unit.unit, *pair) for pair in encoders]
    for (encoder, tokens), result in zip(encoders, run_jobs(encoder_unit, jobs, pressure), strict=True):
        assert np.array_equal(encoder_codes(encoder_unit.unit, encoder, result), CodeEncoder.model(encoder, tokens))

    sums = [(job, first.ravel()[:400], second.ravel()[:400]) for job, (first, second) in some(real, Residual)]
    jobs = [residual_job(residual_unit.unit, *one) for one in sums]
    for one, result in zip(sums, run_jobs(residual_unit, jobs, pressure), strict=True):
        assert np.array_equal(values_of(residual_unit.unit, result), ResidualAdd.model(*one))

    tables = [(table, values.ravel()[:400]) for table, (values,) in some(real, ActivationTable)]
    jobs = [activation_job(activation_unit.unit, *pair) for pair in tables]
    for pair, result in zip(tables, run_jobs(activation_unit, jobs, pressure), strict=True):
        assert np.array_equal(values_of(activation_unit.unit, result), Activation.model(*pair))

    layers = [
        (first_channels(layer, 4), np.ascontiguousarray(values[:5, :64, :4]))
        for layer, (values,) in some(real, Depthwise)
    ]
    assert {layer.stride for layer, _ in layers} == {1, 2}
    unit = depthwise_unit.unit
    jobs = [depthwise_job(unit, *pair) for pair in layers]
    for (layer, values), result in zip(layers, run_jobs(depthwise_unit, jobs, pressure), strict=True):
        found = depthwise_map(unit, layer, values.shape, result)
        assert np.array_equal(found, DepthwiseConvolution.model(layer, values))


def first_channels(layer: Depthwise, count: int) -> Depthwise:
    return replace(layer, weight=layer.weight[:count], multiplier=layer.multiplier[:count], bias=layer.bias[:count])


def expect_flow(entered: NDArray[np.int64], left: NDArray[np.int64], latency: int) -> None:
    """One transfer per cycle, each result `latency` cycles behind its input."""
    assert np.array_equal(np.diff(entered), np.ones(len(entered) - 1))
    assert np.array_equal(left, entered + latency)


def test_a_flipped_bit_of_a_sum_shows_at_its_code_alone(encoder_unit: CompiledUnit[CodeEncoder]) -> None:
    """Token 2, its third transfer of four: product and addend are summed and half shifted seven edges behind it."""
    levels = BYTES[None].astype(np.int8)
    plain = np.full(16, 1, np.int16), np.full(16, 256, np.int32), np.zeros(1, np.uint8)
    encoder = Encoder("plain", 0, np.arange(16, dtype=np.uint16), *plain, levels)
    values = np.random.default_rng(9).integers(-200, 200, (5, 16)).astype(np.int16)
    flip = Flip("shift0/moved4", 1 << 7, after="i", transfers=11, delay=6)
    job = encoder_job(encoder_unit.unit, encoder, values)
    (result,) = run_jobs(encoder_unit, [job], BackPressure(), flips=[flip])
    expect_only(encoder_codes(encoder_unit.unit, encoder, result) != CodeEncoder.model(encoder, values), (2, 8))


def test_a_flipped_bit_of_a_sum_shows_at_its_result_alone(residual_unit: CompiledUnit[ResidualAdd]) -> None:
    residual = Residual("plain", 0, 0, 0)
    first, second = np.random.default_rng(10).integers(-9000, 9000, (2, 80)).astype(np.int16)
    flip = Flip("total0", 1 << 20, after="i_first", transfers=8, delay=4)
    job = residual_job(residual_unit.unit, residual, first, second)
    (result,) = run_jobs(residual_unit, [job], BackPressure(), flips=[flip])
    wrong = values_of(residual_unit.unit, result) != ResidualAdd.model(residual, first, second)
    expect_only(wrong, (7 * 4,))


def test_a_flipped_bit_of_a_line_shows_at_its_result_alone(activation_unit: CompiledUnit[Activation]) -> None:
    table = sample_function("GELU", gelu, -11, -11)
    values = np.random.default_rng(11).integers(-9000, 9000, 60).astype(np.int16)
    flip = Flip("total0", 1 << 3, after="i", transfers=13, delay=Activation.SUM_STAGE - 1)
    job = activation_job(activation_unit.unit, table, values)
    (result,) = run_jobs(activation_unit, [job], BackPressure(), flips=[flip])
    expect_only(values_of(activation_unit.unit, result) != Activation.model(table, values), (12 * 2,))


def test_a_flipped_bit_of_a_convolution_shows_at_its_pixel_alone(
    depthwise_unit: CompiledUnit[DepthwiseConvolution],
) -> None:
    """The window centred on pixel (2, 3) is complete with pixel (3, 4)."""
    unit = depthwise_unit.unit
    ones = np.ones((2, 3, 3), np.int8), np.full(2, 1 << 10, np.uint16), np.zeros(2, np.int64)
    layer = Depthwise("mean", 0, 0, 1, *ones, shift=14)
    values = np.random.default_rng(12).integers(-9000, 9000, (6, 8, 2)).astype(np.int16)
    delay = depthwise_unit.unit.total_stage
    flip = Flip("shift0/moved4", 1 << 21, after="i", transfers=3 * 8 + 4 + 1, delay=delay)
    (result,) = run_jobs(depthwise_unit, [depthwise_job(unit, layer, values)], BackPressure(), flips=[flip])
    found = depthwise_map(unit, layer, values.shape, result)
    expect_only(found != DepthwiseConvolution.model(layer, values), (2, 3, 0))


def expect_only(different: NDArray[np.bool_], place: tuple[int, ...]) -> None:
    """Exactly one result differs, and it is this one."""
    assert [tuple(int(index) for index in found) for found in np.argwhere(different)] == [place]
