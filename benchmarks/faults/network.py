"""A small encoder of invented operations, one of every kind: its program runs for some ten thousand cycles."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from sim.compiler.compile import Program, compile_encoder
from sim.compiler.run import initial_memory
from sim.contract.activation_table import sample_function
from sim.contract.attention import Attention, StaticBias
from sim.contract.depthwise import Depthwise
from sim.contract.encoder import Encoder
from sim.contract.layer import QuantizedLayer
from sim.contract.layer_norm import LayerNorm
from sim.contract.residual import Residual
from sim.contract.serialize import Operation
from sim.contract.wide import Wide
from sim.golden.architecture import Architecture
from sim.golden.convolution import patches
from sim.golden.parameters import Parameters
from sim.machine.presets import MachinePreset

EXPONENT: Final = -8
PATCH: Final = 8
ROWS: Final = 3
SIDE: Final = PATCH * ROWS
WIDTH: Final = 32
HEADS: Final = 1


def _encoder(random: np.random.Generator, name: str, channels: int, levels: NDArray[Any], ordered: bool) -> Encoder:
    tiles = -(-channels // 64)
    order = np.arange(channels) if ordered else random.permutation(channels)
    return Encoder(
        name,
        EXPONENT,
        order.astype(np.uint16),
        random.integers(600, 1400, channels).astype(np.int16),
        ((256 << 13) + random.integers(-9000, 9000, channels)).astype(np.int32),
        np.full(tiles, 13, np.uint8),
        levels.astype(np.int8)[None],
    )


def _linear(random: np.random.Generator, name: str, channels: int, outputs: int) -> QuantizedLayer:
    levels = np.sort(random.choice(np.arange(-120, 120), 16, replace=False))
    return QuantizedLayer(
        name,
        _encoder(random, name, channels, levels, ordered=False),
        random.integers(-128, 120, (outputs, channels)).astype(np.int8),
        (random.uniform(0.6, 1, (-(-channels // 64), outputs)) * 365 / np.sqrt(channels) + 1).astype(np.uint16),
        random.integers(-90000, 90000, outputs).astype(np.int32),
        EXPONENT,
        2,
    )


def _attention(random: np.random.Generator, name: str) -> Attention:
    byte, stationary = np.arange(-128, 128), np.arange(-128, 120)
    q, k, v = (_encoder(random, name, WIDTH, levels, ordered=True) for levels in (byte, stationary, stationary))
    return Attention(
        name,
        HEADS,
        q,
        k,
        v,
        random.integers(10, 40, HEADS).astype(np.uint16),
        np.sort(random.integers(200, 2500, 15))[::-1].astype(np.int32),
        np.concatenate([[0], np.sort(random.choice(np.arange(1, 256), 15, replace=False))]).astype(np.uint16),
        random.integers(30, 60, WIDTH).astype(np.uint16),
        random.integers(-90000, 90000, WIDTH).astype(np.int32),
        EXPONENT,
        StaticBias(random.integers(-800, 800, (HEADS, ROWS**2)).astype(np.int16), ROWS),
    )


def _operations(random: np.random.Generator) -> dict[str, Operation]:
    made: tuple[Operation, ...] = (
        _linear(random, "patch", PATCH**2 * 3, WIDTH),
        Depthwise(
            "depthwise",
            EXPONENT,
            EXPONENT,
            1,
            random.integers(-100, 101, (WIDTH, 3, 3)).astype(np.int8),
            random.integers(20000, 40000, WIDTH).astype(np.uint16),
            random.integers(-(1 << 28), 1 << 28, WIDTH),
            22,
        ),
        sample_function("gelu", lambda x: x / (1 + np.exp(-1.7 * x)), EXPONENT, EXPONENT),
        LayerNorm(
            "norm",
            EXPONENT,
            EXPONENT,
            1 + WIDTH**2,
            random.integers(500, 1500, WIDTH).astype(np.int16),
            random.integers(-300000, 300000, WIDTH).astype(np.int32),
            10,
        ),
        _linear(random, "qkv", WIDTH, 3 * WIDTH),
        _attention(random, "attend"),
        _linear(random, "proj", WIDTH, WIDTH),
        Residual("add", EXPONENT, EXPONENT, EXPONENT),
    )
    return {operation.name: operation for operation in made}


def encode(picture: Wide, parameters: Parameters) -> Wide:
    """(SIDE, SIDE, 3) to (ROWS, ROWS, WIDTH)."""
    x = parameters.linear("patch", picture.with_values(patches(picture.values, PATCH)))
    x = parameters.gelu("gelu", parameters.depthwise("depthwise", x))
    normed = parameters.norm("norm", x)
    windows = normed.with_values(normed.values.reshape(1, ROWS**2, WIDTH))
    qkv = parameters.linear("qkv", windows)
    q, k, v = (qkv.with_values(qkv.values[..., part * WIDTH : (part + 1) * WIDTH]) for part in range(3))
    mixed = parameters.attention("attend", q, k, v, heads=HEADS)
    proj = parameters.linear("proj", mixed.with_values(mixed.values.reshape(ROWS, ROWS, WIDTH)))
    return parameters.add("add", x, proj)


@dataclass(frozen=True)
class Target:
    """What faults are injected into. memory: all of it, uint8, with image and picture, before the start."""

    program: Program
    memory: NDArray[np.uint8]


def target(preset: MachinePreset, seed: int) -> Target:
    """Program and memory of the encoder. Raises UserError where the preset is too small for it."""
    random = np.random.default_rng(seed)
    parameters = Parameters({}, _operations(random))
    picture = Wide(random.integers(-2000, 2000, (SIDE, SIDE, 3)).astype(np.int16), EXPONENT)
    # The compiler asks an architecture for the side, the exponent and the function; this network is in no manifest.
    architecture = SimpleNamespace(input_format=SimpleNamespace(side=SIDE), input_exponent=EXPONENT, encode=encode)
    program = compile_encoder(parameters, cast(Architecture, architecture), preset)
    return Target(program, initial_memory(program, picture))
