"""The machine: a program in memory runs the units of a preset."""

from typing import Any, Final

from amaranth.hdl import Elaboratable, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.array.geometry import ArrayGeometry
from hdl.attention.attention import Attention
from hdl.attention.geometry import AttentionGeometry
from hdl.attention.position import PositionUnit
from hdl.layer_norm.layer_norm import LayerNormUnit
from hdl.link.token import StreamRegister
from hdl.machine.code_path import CodePath
from hdl.machine.delivery import Weights
from hdl.machine.fault import KIND_BITS
from hdl.machine.jobs import ADDRESS_BITS, Beats
from hdl.machine.mover import PATIENCE, Mover
from hdl.machine.records import assign_record
from hdl.memory.port import MemoryPort
from hdl.vector.activation import Activation
from hdl.vector.depthwise import DepthwiseConvolution
from hdl.vector.residual import ResidualAdd
from sim.machine.ports import RECORDS, ROUTES, Port, is_output, payload_bytes
from sim.machine.presets import MachinePreset
from sim.machine.settings import SCORE_PLANES

NORM_BUFFERS: Final = 3
"""Tokens that LayerNorm holds: four lanes need three to keep up with 160 channels."""

TABLE_BITS: Final = 8
"""Of an entry of a product table: a signed weight of 4 bits times a code of 0..15."""

UNIT_PORTS: Final[dict[Port, tuple[str, str]]] = {
    Port.ARRAY_COMMAND: ("attention", "i_command"),
    Port.CODEBOOK: ("attention", "i_codebook"),
    Port.WEIGHTS: ("attention", "i_weights"),
    Port.SCALE: ("attention", "i_scale"),
    Port.BIAS: ("attention", "i_bias"),
    Port.CODE_BLOCK: ("attention", "i_block"),
    Port.CODES: ("attention", "i_codes"),
    Port.THRESHOLD: ("attention", "i_threshold"),
    Port.SCORE_LEVEL: ("attention", "i_level"),
    Port.RESULTS: ("attention", "o"),
    Port.POSITION_COMMAND: ("position", "i_command"),
    Port.POSITION_VALUES: ("position", "i"),
    Port.ENCODER_ORDER: ("codes", "i_order"),
    Port.ENCODER_CHANNEL: ("codes", "i_channels"),
    Port.ENCODER_TILE: ("codes", "i_tiles"),
    Port.ENCODER_TABLE: ("codes", "i_table"),
    Port.ENCODER_PLANES: ("codes", "i_planes"),
    Port.ENCODED: ("codes", "o"),
    Port.NORM_COMMAND: ("norm", "i_command"),
    Port.NORM_PARAMETER: ("norm", "i_parameters"),
    Port.NORM_VALUES: ("norm", "i"),
    Port.NORMED: ("norm", "o"),
    Port.RESIDUAL_SETTING: ("residual", "i_setting"),
    Port.SUMS: ("residual", "o"),
    Port.ACTIVATION_TABLE: ("activation", "i_table"),
    Port.ACTIVATION_SETTING: ("activation", "i_setting"),
    Port.ACTIVATION_VALUES: ("activation", "i"),
    Port.ACTIVATED: ("activation", "o"),
    Port.DEPTHWISE_MAP: ("depthwise", "i_map"),
    Port.DEPTHWISE_CHANNEL: ("depthwise", "i_channels"),
    Port.DEPTHWISE_VALUES: ("depthwise", "i"),
    Port.CONVOLVED: ("depthwise", "o"),
}
"""Unit and stream of every port that is no more than that."""

OTHER_PORTS: Final = (Port.COPY, Port.COPIED, Port.WEIGHTS_TURNED, Port.ENCODER_VALUES, Port.RESIDUAL_VALUES)
"""Ports with something of their own in between."""

PORTS: Final = (*UNIT_PORTS, *OTHER_PORTS)


def attention_geometry(preset: MachinePreset) -> AttentionGeometry:
    """The attention unit of a preset."""
    array = ArrayGeometry(
        rows=preset.rows,
        columns=preset.columns,
        loader_rows=preset.loader_rows,
        table_bits=TABLE_BITS,
        token_depth=preset.token_depth,
        codebooks=preset.codebooks,
        column_group=preset.column_group,
    )
    return AttentionGeometry(
        array=array,
        lanes=preset.lanes,
        keys=preset.keys,
        logit_words=preset.logit_words,
        code_words=preset.code_words,
        block_words=preset.block_words,
        code_beat_bits=8 * preset.beat_bytes,
        score_planes=SCORE_PLANES,
        bias=1,
    )


class Machine(wiring.Component):
    """Runs programs of sim.machine.commands, one command stream from memory; docs/machine.md.

    `memory`: the external one, and the only way in and out. `i_start`, `writable`, `o_done`, `o_error`, `o_where`:
    hdl.machine.mover.
    preset: sizes. depth: beats of READs under way, at least what memory takes to answer. patience: cycles without
    progress until the watchdog stops the machine. Raises ValueError where a unit refuses a size of the preset.
    """

    def __init__(self, preset: MachinePreset, *, depth: int = 32, patience: int = PATIENCE) -> None:
        self._preset, self._depth, self._patience = preset, depth, patience
        self._beats = beats = Beats(
            preset.beat_bytes,
            preset.memory_bytes // preset.beat_bytes,
            preset.near_bytes // preset.beat_bytes,
        )
        super().__init__(
            {
                "i_start": In(1),
                "writable": In(ADDRESS_BITS),
                "memory": Out(MemoryPort(address_bits=beats.port_bits, beat_bits=beats.bits)),
                "o_done": Out(1),
                "o_error": Out(KIND_BITS),
                "o_where": Out(ADDRESS_BITS),
            }
        )

    def _units(self) -> dict[str, Any]:
        preset = self._preset
        return {
            "attention": Attention(attention_geometry(preset)),
            "position": PositionUnit(lanes=preset.lanes, keys=preset.keys),
            "codes": CodePath(lanes=preset.lanes, tables=preset.tables),
            "norm": LayerNormUnit(
                lanes=preset.norm_lanes, depth=preset.norm_channels, buffers=NORM_BUFFERS, permuted=0
            ),
            "residual": ResidualAdd(lanes=preset.lanes),
            "activation": Activation(lanes=preset.lanes),
            "depthwise": DepthwiseConvolution(
                lanes=preset.lanes, columns=preset.map_columns, taps_per_cycle=preset.depthwise_taps
            ),
        }

    def elaborate(self, platform: Any) -> Elaboratable:
        """The mover, the units, and a wire from every port to its stream."""
        m = Module()
        preset = self._preset
        sizes = {port: payload_bytes(port, preset) for port in PORTS}
        m.submodules.mover = mover = Mover(
            self._beats,
            inputs={int(port): size for port, size in sizes.items() if not is_output(port)},
            outputs={int(port): size for port, size in sizes.items() if is_output(port)},
            routes={int(source): int(sink) for source, sink in ROUTES.items()},
            weights=Weights(preset.loader_rows, preset.columns, Port.WEIGHTS, Port.WEIGHTS_TURNED),
            depth=self._depth,
            patience=self._patience,
        )
        wiring.connect(m, mover.memory, wiring.flipped(self.memory))
        m.d.comb += [
            mover.i_start.eq(self.i_start),
            mover.writable.eq(self.writable),
            self.o_done.eq(mover.o_done),
            self.o_error.eq(mover.o_error),
            self.o_where.eq(mover.o_where),
        ]
        units = self._units()
        for name, unit in units.items():
            m.submodules[name] = unit
        wiring.connect(m, units["position"].o, units["attention"].i_position)
        for port, (name, stream_name) in UNIT_PORTS.items():
            inner = getattr(units[name], stream_name)
            if is_output(port):
                self._take(m, inner, getattr(mover, f"from_{int(port)}"))
            else:
                given = getattr(mover, f"to_{int(port)}")
                if port == Port.SCALE and sizes[port] > preset.beat_bytes:
                    # The array takes a scale and a bias together, and payloads of several beats are put together in
                    # one place: the scale waits here for the bias.
                    m.submodules.scale = waiting = StreamRegister(given.payload.shape())
                    wiring.connect(m, given, waiting.i)
                    given = waiting.o
                self._give(m, port, given, inner)
        copy, copied = getattr(mover, f"to_{int(Port.COPY)}"), getattr(mover, f"from_{int(Port.COPIED)}")
        m.d.comb += [
            copied.payload.eq(copy.payload.data),
            copied.valid.eq(copy.valid),
            copy.ready.eq(copied.ready),
        ]
        values, tokens = getattr(mover, f"to_{int(Port.ENCODER_VALUES)}"), units["codes"].i
        m.d.comb += [
            tokens.payload.values.as_value().eq(values.payload.data),
            tokens.payload.last.eq(values.payload.last),
            tokens.valid.eq(values.valid),
            values.ready.eq(tokens.ready),
        ]
        self._alternate(m, getattr(mover, f"to_{int(Port.RESIDUAL_VALUES)}"), units["residual"])
        return m

    def _take(self, m: Module, inner: Any, outer: Any) -> None:
        m.d.comb += [
            outer.payload.eq(Value.cast(inner.payload)),
            outer.valid.eq(inner.valid),
            inner.ready.eq(outer.ready),
        ]

    def _give(self, m: Module, port: Port, outer: Any, inner: Any) -> None:
        """A payload as it comes, or the fields of its record."""
        m.d.comb += [inner.valid.eq(outer.valid), outer.ready.eq(inner.ready)]
        if port in RECORDS:
            m.d.comb += assign_record(port, inner.payload, outer.payload.data)
        else:
            m.d.comb += Value.cast(inner.payload).eq(outer.payload.data)

    def _alternate(self, m: Module, values: Any, residual: Any) -> None:
        """Beats of the first operand and the second in turn: the first waits in a register."""
        first, held = Signal(values.payload.data.shape(), reset_less=True), Signal()
        m.d.comb += [
            Value.cast(residual.i_first.payload).eq(first),
            Value.cast(residual.i_second.payload).eq(values.payload.data),
            residual.i_first.valid.eq(held & values.valid),
            residual.i_second.valid.eq(held & values.valid),
            values.ready.eq(~held | residual.i_second.ready),
        ]
        with m.If(values.valid & values.ready):
            m.d.sync += held.eq(~held)
            with m.If(~held):
                m.d.sync += first.eq(values.payload.data)
