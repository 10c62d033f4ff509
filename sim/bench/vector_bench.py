"""Operations of the vector units as jobs: what is sent, and results in the shape of the units' models."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from amaranth.lib import data
from numpy.typing import NDArray

from hdl.vector.activation import Activation
from hdl.vector.depthwise import DepthwiseConvolution
from hdl.vector.encoder import CodeEncoder
from hdl.vector.residual import ResidualAdd
from sim.bench.packing import unpack
from sim.bench.player import EpisodeResult
from sim.bench.unit import Job, columns
from sim.contract.activation_table import ActivationTable
from sim.contract.depthwise import Depthwise
from sim.contract.encoder import Encoder
from sim.contract.residual import Residual

SPARE = 12345
"""Carried by lanes without a channel: it must reach no result."""


def encoder_job(unit: CodeEncoder, encoder: Encoder, values: NDArray[np.int16]) -> Job:
    """Tokens (tokens, C) in channel order, permuted on the way in; one transfer per `lanes` channels."""
    transfers = _in_lanes(values[:, encoder.permutation], unit.lanes)
    last = np.zeros(transfers.shape[:2], np.int64)
    last[:, -1] = 1
    inputs = {"i": {"values": transfers.reshape(-1, unit.lanes), "last": last.ravel()}}
    return Job(_columns_by_port(CodeEncoder.parameters(encoder)), inputs, last.size)


def encoder_codes(unit: CodeEncoder, encoder: Encoder, result: EpisodeResult) -> NDArray[np.uint8]:
    """Codes (tokens, C) of an `encoder_job`. Raises AssertionError unless `last` ends every token, and nothing else."""
    layout, payloads = unit.o.payload.shape(), result.payloads["o"]
    codes = unpack(layout.members["codes"], payloads)
    last = unpack(data.ArrayLayout(1, layout.size), payloads)[:, -1]
    beats = -(-encoder.channels // unit.lanes)
    assert np.array_equal(last, np.arange(1, last.size + 1) % beats == 0), "a token of codes ends where none should"
    return codes.reshape(-1, beats * unit.lanes)[:, : encoder.channels].astype(np.uint8)


def residual_job(unit: ResidualAdd, residual: Residual, first: NDArray[np.int16], second: NDArray[np.int16]) -> Job:
    """Two lists of values (n,); n is a multiple of the lanes."""
    inputs = {"i_first": first.reshape(-1, unit.lanes), "i_second": second.reshape(-1, unit.lanes)}
    return Job(_columns_by_port({"i_setting": [ResidualAdd.setting(residual)]}), inputs, first.size // unit.lanes)


def activation_job(unit: Activation, activation: ActivationTable, values: NDArray[np.int16]) -> Job:
    """Values (n,); n is a multiple of the lanes."""
    parameters = _columns_by_port(Activation.parameters(activation))
    return Job(parameters, {"i": values.reshape(-1, unit.lanes)}, values.size // unit.lanes)


def values_of(unit: ResidualAdd | Activation, result: EpisodeResult) -> NDArray[np.int16]:
    """Values (n,) of a `residual_job` or an `activation_job`."""
    return unpack(unit.o.payload.shape(), result.payloads["o"]).ravel().astype(np.int16)


def depthwise_job(unit: DepthwiseConvolution, layer: Depthwise, values: NDArray[np.int16]) -> Job:
    """A map (rows, columns, C), pass by pass of `lanes` channels; channels and pixels are offered together."""
    rows, width, channels = values.shape
    passes = _in_lanes(values.reshape(-1, channels), unit.lanes).swapaxes(0, 1)
    inputs = {"i_channels": columns(unit.channels(layer)), "i": passes.reshape(-1, unit.lanes)}
    results = len(passes) * -(-rows // layer.stride) * -(-width // layer.stride)
    return Job(_columns_by_port({"i_map": [unit.setting(layer, rows, width)]}), inputs, results)


def depthwise_map(
    unit: DepthwiseConvolution, layer: Depthwise, shape: tuple[int, ...], result: EpisodeResult
) -> NDArray[np.int16]:
    """Results (ceil(rows / stride), ceil(columns / stride), C) of a `depthwise_job` on a map of this shape."""
    rows, width, channels = shape
    size = (-(-rows // layer.stride), -(-width // layer.stride))
    found = unpack(unit.o.payload.shape(), result.payloads["o"]).reshape(-1, *size, unit.lanes)
    return found.transpose(1, 2, 0, 3).reshape(*size, -1)[..., :channels].astype(np.int16)


def _in_lanes(values: NDArray[np.int16], lanes: int) -> NDArray[np.int16]:
    """(n, ceil(C / lanes), lanes) of (n, C)."""
    padding = ((0, 0), (0, -values.shape[1] % lanes))
    return np.pad(values, padding, constant_values=SPARE).reshape(len(values), -1, lanes)


def _columns_by_port(transfers: Mapping[str, list[Any]]) -> dict[str, Any]:
    return {port: columns(payloads) for port, payloads in transfers.items()}
