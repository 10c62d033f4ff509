# amaranth: UnusedElaboratable=no

"""What `python -m hdl synth` can synthesize on its own: one entry per unit."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from amaranth.lib import wiring

from hdl.array.adder_tree import AdderTree
from hdl.array.geometry import PRESETS, ArrayGeometry
from hdl.array.loader import TableLoader
from hdl.array.product_table import ProductTables
from hdl.attention.attention import Attention
from hdl.attention.code_buffer import CodeBuffer
from hdl.attention.code_gather import CodeGather
from hdl.attention.geometry import AttentionGeometry
from hdl.attention.position import PositionUnit
from hdl.attention.reorder_buffer import ReorderBuffer
from hdl.layer_norm.layer_norm import LayerNormUnit
from hdl.link.frame import FrameReceiver, FrameTransmitter
from hdl.machine.code_packer import CodePacker
from hdl.machine.machine import Machine
from hdl.machine.token_order import TokenOrder
from hdl.matmul import Matmul, MultiplyAccumulate
from hdl.memory.image_source import ImageSource
from hdl.memory.port import MemoryPort
from hdl.memory.sdram.address import AddressMap
from hdl.memory.sdram.controller import SdramController
from hdl.memory.sdram.timing import part_of
from hdl.rescale import GroupRescale
from hdl.softmax.softmax import Softmax
from hdl.vector.activation import Activation
from hdl.vector.depthwise import DepthwiseConvolution
from hdl.vector.encoder import CodeEncoder
from hdl.vector.residual import ResidualAdd
from sim.contract.errors import UserError
from sim.machine.presets import preset_of


@dataclass(frozen=True)
class Unit:
    """A synthesizable unit.

    about: one line. build: makes the component; its keyword arguments, all with integer or text defaults, are
    the unit's parameters. macs: multiply-accumulates per cycle from the same arguments, None where that means
    nothing.
    """

    about: str
    build: Callable[..., wiring.Component]
    macs: Callable[..., int] | None = None

    @property
    def parameters(self) -> dict[str, int | str]:
        """Parameter names and defaults."""
        return {name: parameter.default for name, parameter in inspect.signature(self.build).parameters.items()}


def geometry(
    *,
    preset: str = "",
    rows: int = 32,
    columns: int = 8,
    loader_rows: int = 16,
    table_bits: int = 8,
    token_depth: int = 512,
    codebooks: int = 16,
    column_group: int = 4,
) -> ArrayGeometry:
    """A geometry by preset name, or from its numbers when `preset` is empty."""
    if preset:
        if preset not in PRESETS:
            raise ValueError(f"preset={preset} must be one of {', '.join(PRESETS)}; nearest valid value: small")
        return PRESETS[preset]
    return ArrayGeometry(
        rows=rows,
        columns=columns,
        loader_rows=loader_rows,
        table_bits=table_bits,
        token_depth=token_depth,
        codebooks=codebooks,
        column_group=column_group,
    )


def _with_geometry(component: Callable[[ArrayGeometry], wiring.Component]) -> Callable[..., wiring.Component]:
    """A builder that takes the parameters of `geometry`."""

    def build(**parameters: Any) -> wiring.Component:
        return component(geometry(**parameters))

    build.__signature__ = inspect.signature(geometry)  # type: ignore[attr-defined]
    return build


def _macs(**parameters: Any) -> int:
    return geometry(**parameters).macs


def _adder_tree(inputs: int = 64, width: int = 8) -> AdderTree:
    return AdderTree(inputs=inputs, width=width)


def _product_table(rows: int = 16, columns: int = 4, loader_rows: int = 8, table_bits: int = 8) -> ProductTables:
    return ProductTables(rows=rows, columns=columns, loader_rows=loader_rows, table_bits=table_bits)


def _attention_geometry(
    *,
    preset: str = "small",
    lanes: int = 4,
    keys: int = 4096,
    logit_words: int = 8192,
    code_words: int = 2048,
    block_words: int = 2048,
    code_beat_bits: int = 64,
    score_planes: int = 2,
    bias: int = 1,
) -> AttentionGeometry:
    return AttentionGeometry(
        array=geometry(preset=preset),
        lanes=lanes,
        keys=keys,
        logit_words=logit_words,
        code_words=code_words,
        block_words=block_words,
        code_beat_bits=code_beat_bits,
        score_planes=score_planes,
        bias=bias,
    )


def _with_attention_geometry(component: Callable[[AttentionGeometry], wiring.Component]) -> Callable[..., Any]:
    """A builder that takes the parameters of `_attention_geometry`."""

    def build(**parameters: Any) -> wiring.Component:
        return component(_attention_geometry(**parameters))

    build.__signature__ = inspect.signature(_attention_geometry)  # type: ignore[attr-defined]
    return build


def _sdram_controller(part: str = "AS4C16M16SA-6", mhz: int = 133, beat_bits: int = 128) -> SdramController:
    chosen = part_of(part)
    port = MemoryPort(address_bits=AddressMap(chosen, beat_bits).bits, beat_bits=beat_bits)
    return SdramController(port, chosen, chosen.at(mhz))


def _image_source(address_bits: int = 24, beat_bits: int = 128, depth: int = 16) -> ImageSource:
    return ImageSource(MemoryPort(address_bits=address_bits, beat_bits=beat_bits), depth=depth)


def _machine(
    preset: str = "small", depth: int = 32, lanes: int = 0, norm_lanes: int = 0, depthwise_taps: int = 0
) -> Machine:
    """lanes, norm_lanes, depthwise_taps: in place of the preset's own, where they are not 0."""
    own = preset_of(preset)
    sizes = replace(
        own,
        lanes=lanes or own.lanes,
        norm_lanes=norm_lanes or own.norm_lanes,
        depthwise_taps=depthwise_taps or own.depthwise_taps,
    )
    return Machine(sizes, depth=depth)


UNITS: Final[dict[str, Unit]] = {
    "array": Unit(
        "everything that makes a multiply-accumulate: tables, trees, loader, group rescale with accumulators",
        _with_geometry(MultiplyAccumulate),
        _macs,
    ),
    "matmul": Unit("array with command sequencer and output FIFO", _with_geometry(Matmul), _macs),
    "loader": Unit("codebook memory, sweep counter and running adders", _with_geometry(TableLoader)),
    "rescale": Unit("multipliers, token memories, accumulators and rounding", _with_geometry(GroupRescale)),
    "softmax": Unit("log-domain softmax: maximum, sum of powers of two, threshold search", Softmax),
    "adder_tree": Unit("one column's pipelined adder tree", _adder_tree),
    "frame_receiver": Unit("host link: COBS, CRC-32 and the packet buffer", FrameReceiver),
    "frame_transmitter": Unit("host link: CRC-32 and COBS of replies", FrameTransmitter),
    "product_table": Unit("product tables of one column group", _product_table),
    "encoder": Unit("wide numbers to codes: multiply, add, shift, table of half steps", CodeEncoder),
    "residual": Unit("sum of two wide tensors: exponents aligned, one rounding, saturation", ResidualAdd),
    "activation": Unit("a function by 1,025 samples and straight lines: GELU", Activation),
    "depthwise": Unit("depthwise 3x3 convolution, strides 1 and 2, with line buffers", DepthwiseConvolution),
    "attention": Unit(
        "q.k, softmax and P.v on one array, with its buffers and sequencer", _with_attention_geometry(Attention)
    ),
    "reorder_buffer": Unit("column tiles of logits to rows of a softmax", _with_attention_geometry(ReorderBuffer)),
    "code_gather": Unit("rows of codes of P to row tiles of the array", _with_attention_geometry(CodeGather)),
    "code_buffer": Unit("blocks of codes that the array streams, in two halves", CodeBuffer),
    "position": Unit("position biases of rows of the softmax, from a table or from vectors of queries", PositionUnit),
    "token_order": Unit("tokens in the order of their channels to the order of positions", TokenOrder),
    "code_packer": Unit("codes to nibble planes as memory holds them", CodePacker),
    "sdram_controller": Unit("SDR SDRAM of 16 bits behind the memory port", _sdram_controller),
    "image_source": Unit("a program's image from a port of its own, in front of memory", _image_source),
    "machine": Unit("the whole machine: every unit, and what runs programs from memory", _machine),
    "layer_norm": Unit("LayerNorm of 16-bit tokens: exact sums, reciprocal root, gain and bias", LayerNormUnit),
}
"""Units by name."""


def build_unit(name: str, parameters: Mapping[str, str]) -> tuple[wiring.Component, int | None]:
    """(component, multiply-accumulates per cycle or None) of unit `name` with parameters as typed by a user.

    Raises UserError for an unknown unit, an unknown parameter, a value that is no integer or one out of range.
    """
    if name not in UNITS:
        raise UserError(f"there is no unit {name!r}; choose one of {', '.join(UNITS)}")
    unit = UNITS[name]
    values: dict[str, int | str] = {}
    for key, text in parameters.items():
        if key not in unit.parameters:
            raise UserError(f"unit {name} has no parameter {key!r}; it has {', '.join(unit.parameters)}")
        if isinstance(unit.parameters[key], str):
            values[key] = text
            continue
        try:
            values[key] = int(text, 0)
        except ValueError as error:
            raise UserError(f"parameter {key}={text} of unit {name} must be an integer") from error
    try:
        return unit.build(**values), unit.macs(**values) if unit.macs else None
    except ValueError as error:
        raise UserError(f"unit {name}: {error}") from error
