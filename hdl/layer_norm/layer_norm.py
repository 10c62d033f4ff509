"""The LayerNorm unit: tokens stream in, normalised tokens stream out in any order of their channels."""

from typing import Any

import numpy as np
from amaranth.hdl import Elaboratable, Module, Mux, Signal, signed
from amaranth.lib import data, fifo, stream, wiring
from amaranth.lib.wiring import In, Out
from numpy.typing import NDArray

from hdl.layer_norm.geometry import LayerNormGeometry
from hdl.layer_norm.group_counter import GroupCounter
from hdl.layer_norm.normaliser import Normaliser
from hdl.layer_norm.operands import command_layout, order_of, parameter_layout
from hdl.layer_norm.reciprocal_root import SCALE_LAYOUT, ReciprocalRoot
from hdl.layer_norm.token_buffers import TokenBuffers
from hdl.layer_norm.token_sums import TokenSums
from hdl.pipeline import delay
from sim.contract.constants import WIDE_BITS
from sim.contract.layer_norm import LayerNorm
from sim.contract.wide import Wide


class LayerNormUnit(wiring.Component):
    """LayerNorm of 16-bit tokens, bit for bit sim.contract.layer_norm.LayerNorm.run. Parameters: LayerNormGeometry.

    - `i_parameters` writes gain, bias and (with `permuted`) channel of one position. Ready between commands.
    - `i_command` starts a layer over `tokens` tokens (hdl.layer_norm.operands). Ready when the last result of the
      command before has been taken, as is `o_idle`. Fields and parameters must be those of a valid layer.
    - `i` takes each token in `groups` = ceil(channels / lanes) transfers of `lanes` channels; surplus lanes of the
      last one are ignored. `o` gives it in as many transfers, position p on lane p % lanes, surplus lanes 0.

    A token is written to one of `buffers` buffers while its sums are taken; the root follows, then the token is
    read, normalised and sent. The unit is never stopped by `o`: a channel is read only if the output FIFO has a
    place for it.

    Cycles, nobody stalling, with `turnaround` = 43 + log2(lanes) from a token's last channels to its first read and
    `pipeline` = 25 to 29 from a read to its result: a token's first result comes `latency` = groups - 1 +
    turnaround + pipeline cycles after its first channels. Tokens follow one another on average every

        max(groups, turnaround, (2 * groups + turnaround + release - 2) / buffers)

    cycles. The second term is for tokens shorter than a root, of which one is computed at a time; the third, because
    a buffer is taken from a token's first channels until `release` cycles after its last read (2; 1 not permuted, 3
    where a lane's positions do not fit one bank of block RAM). `cycles` gives the exact number for a command.

    Keeping up with a 64 x 32 array (2,048 MAC per cycle) on ViT-B: a token of 768 channels takes, with one lane and
    two buffers, max(768, 43, (1536 + 43) / 2) = 789.5 cycles. The layers behind it take, for a single pass,
    768 * 2304 / 2048 = 864 cycles per token (qkv) and 768 * 3072 / 2048 = 1,152 (fc1). 160 channels of TinyViT
    need four lanes and three buffers: max(40, 45, (80 + 45) / 3) = 45 cycles, as many as qkv takes with 3 K tiles
    of 64 inputs and 15 column tiles of 32 outputs. Narrower TinyViT layers take fewer cycles than a root.
    """

    def __init__(self, *, lanes: int = 1, depth: int = 768, buffers: int = 2, permuted: int = 1) -> None:
        self.geometry = geometry = LayerNormGeometry(lanes=lanes, depth=depth, buffers=buffers, permuted=permuted)
        self._x_delay = TokenBuffers.latency(geometry)
        self.turnaround = 1 + TokenSums.latency(lanes) + ReciprocalRoot.CYCLES + 1
        self.release = max(1, TokenBuffers.order_latency(geometry))
        self.pipeline = Normaliser.latency(self._x_delay) + 1
        self._credits = -(-(self.pipeline + 2) // 16) * 16  # whole cells of distributed RAM
        transfer = data.ArrayLayout(signed(WIDE_BITS), lanes)
        super().__init__(
            {
                "i_command": In(stream.Signature(command_layout(geometry))),
                "i_parameters": In(stream.Signature(parameter_layout(geometry))),
                "i": In(stream.Signature(transfer)),
                "o": Out(stream.Signature(transfer)),
                "o_idle": Out(1),
            }
        )

    def latency(self, channels: int) -> int:
        """Cycles from a token's first transfer on `i` to its first on `o`, the unit empty and nobody stalling."""
        return self.geometry.groups(channels) - 1 + self.turnaround + self.pipeline

    def cycles(self, tokens: int, channels: int) -> int:
        """Cycles from the first transfer on `i` to the last on `o`, both included, nobody stalling; tokens >= 1."""
        groups, buffers = self.geometry.groups(channels), self.geometry.buffers
        written = taken = read = -1  # last transfer in; scale taken over; last read: of the token before
        free = [0] * buffers  # from when each buffer may be written
        for token in range(tokens):
            started = max(written + 1, free[token % buffers])
            written = max(started + groups - 1, taken + 1)
            taken = max(written + self.turnaround - 1, read)
            read = taken + groups
            free[token % buffers] = read + self.release
        return read + self.pipeline + 1

    def model(
        self, layer: LayerNorm, tokens: NDArray[np.int16], permutation: NDArray[np.integer] | None = None
    ) -> NDArray[np.int16]:
        """Results int16 (tokens, C) for tokens int16 (tokens, C), channels in the order of `permutation`.

        Raises ValueError when layer or permutation do not fit the unit.
        """
        order = order_of(self.geometry, layer, permutation)
        return layer.run(Wide(tokens, layer.input_exponent)).values[:, order]

    def elaborate(self, platform: Any) -> Elaboratable:
        """Command, writing side, root, reading side, lanes, output FIFO."""
        m = Module()
        geometry = self.geometry
        lanes, lane_bits = geometry.lanes, geometry.lane_bits
        m.submodules.tokens = tokens = TokenBuffers(geometry)
        m.submodules.sums = sums = TokenSums(lanes=lanes)
        m.submodules.root = root = ReciprocalRoot()
        m.submodules.normaliser = normaliser = Normaliser(geometry, x_delay=self._x_delay)
        m.submodules.results = results = fifo.SyncFIFO(width=WIDE_BITS * lanes, depth=self._credits)
        m.submodules.writing = writing = GroupCounter(bits=geometry.group_bits)
        m.submodules.reading = reading = GroupCounter(bits=geometry.group_bits)

        # The layer, as the command has it; what follows from the number of channels takes three cycles.
        command = self.i_command.payload
        channels = Signal(range(geometry.depth + 1))
        shift, remaining = Signal.like(command.shift), Signal.like(command.tokens)
        epsilon = Signal.like(command.epsilon, reset_less=True)
        starting, more, commanded = Signal(3), Signal(), Signal()
        last_channel = Signal(geometry.channel_bits)
        last_group = Signal(geometry.group_bits)
        surplus = Signal(lanes)  # lanes of the last transfer without a channel
        m.d.comb += [
            self.i_command.ready.eq(self.o_idle),
            last_channel.eq(channels - 1),
            last_group.eq(last_channel[lane_bits:]),
            writing.last.eq(last_group),
            reading.last.eq(last_group),
            writing.clear.eq(starting[1]),
            reading.clear.eq(starting[1]),
        ]
        m.d.sync += starting.eq(starting << 1)
        m.d.sync += [surplus[lane].eq(last_channel[:lane_bits] < lane) for lane in range(1, lanes)]
        m.d.comb += commanded.eq(self.i_command.valid & self.i_command.ready)
        with m.If(commanded):
            m.d.sync += [
                channels.eq(command.channels),
                epsilon.eq(command.epsilon),
                shift.eq(command.shift),
                remaining.eq(command.tokens),
                starting[0].eq(command.tokens != 0),
            ]
        with m.If(starting[-1]):
            m.d.sync += more.eq(1)

        def rotate(buffer: Signal) -> Any:
            last = buffer == geometry.buffers - 1
            m.d.sync += buffer.eq(Mux(last, 0, buffer + 1))

        # Writing: buffers and sums
        write_buffer = Signal(range(geometry.buffers))
        free = Signal(range(geometry.buffers + 1), init=geometry.buffers)
        has_free, all_free = Signal(init=1), Signal(init=1)
        computing = Signal()  # between a token's last channels and the moment its scale is taken over
        accepted, filled, reserved, released = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            self.i.ready.eq(more & (has_free | ~writing.at_start) & ~(writing.at_end & computing)),
            accepted.eq(self.i.valid & self.i.ready),
            filled.eq(accepted & writing.at_end),
            writing.step.eq(accepted),
        ]
        with m.If(filled):
            rotate(write_buffer)
            m.d.sync += [remaining.eq(remaining - 1), more.eq(remaining != 1), computing.eq(1)]
        # A token reserves its buffer a cycle after its first transfer. The first of the next token comes later than
        # that: it waits for `computing` where the token has no second.
        m.d.comb += reserved.eq(sums.valid & sums.first)
        with m.If(released & ~reserved):
            m.d.sync += [free.eq(free + 1), has_free.eq(1), all_free.eq(free == geometry.buffers - 1)]
        with m.Elif(reserved & ~released):
            m.d.sync += [free.eq(free - 1), has_free.eq(free != 1), all_free.eq(0)]
        stored = Signal(self.i.payload.shape())
        m.d.comb += [sums.x.eq(stored), tokens.write_data.eq(stored)]
        m.d.sync += [
            sums.valid.eq(accepted),
            sums.first.eq(writing.at_start),
            sums.last.eq(writing.at_end),
            tokens.write_enable.eq(accepted),
            tokens.write_group.eq(writing.group),
            tokens.write_buffer.eq(write_buffer),
        ]
        for lane in range(lanes):
            m.d.sync += stored[lane].eq(self.i.payload[lane])
            with m.If(writing.at_end & surplus[lane]):
                m.d.sync += stored[lane].eq(0)
        m.d.comb += [
            root.i.valid.eq(sums.o.valid),
            root.i.payload.eq(sums.o.payload),
            root.channels.eq(channels),
            root.epsilon.eq(epsilon),
        ]

        # Reading: one transfer per cycle while the output has a place for it
        read_buffer = Signal(range(geometry.buffers))
        credits = Signal(range(self._credits + 1), init=self._credits)
        has_credit, all_credits = Signal(init=1), Signal(init=1)
        active, issued, ending, taking, returned = Signal(), Signal(), Signal(), Signal(), Signal()
        scale = Signal(SCALE_LAYOUT, reset_less=True)
        m.d.comb += [
            issued.eq(active & has_credit),
            ending.eq(issued & reading.at_end),
            reading.step.eq(issued),
            root.o.ready.eq(~active | ending),
            taking.eq(root.o.valid & root.o.ready),
            tokens.read_group.eq(reading.group),
            tokens.read_buffer.eq(read_buffer),
            released.eq(delay(m, ending, self.release - 1, "ending", reset_less=False)),
        ]
        with m.If(ending):
            rotate(read_buffer)
            m.d.sync += active.eq(0)
        with m.If(taking):
            m.d.sync += [active.eq(1), computing.eq(0), scale.eq(root.o.payload)]
        m.d.sync += returned.eq(self.o.valid & self.o.ready)
        with m.If(returned & ~issued):
            m.d.sync += [credits.eq(credits + 1), has_credit.eq(1), all_credits.eq(credits == self._credits - 1)]
        with m.Elif(issued & ~returned):
            m.d.sync += [credits.eq(credits - 1), has_credit.eq(credits != 1), all_credits.eq(0)]

        parameter = self.i_parameters.payload
        write_lanes = Signal(lanes)
        m.d.comb += [
            self.i_parameters.ready.eq(self.o_idle),
            write_lanes.eq((self.i_parameters.valid & self.o_idle) << parameter.position[:lane_bits]),
            tokens.order_enable.eq(write_lanes),
            tokens.order_group.eq(parameter.position[lane_bits:]),
            normaliser.write_enable.eq(write_lanes),
            normaliser.write_group.eq(parameter.position[lane_bits:]),
            normaliser.gain.eq(parameter.gain),
            normaliser.bias.eq(parameter.bias),
        ]
        if geometry.permuted:
            m.d.comb += tokens.order_channel.eq(parameter.channel)
        m.d.comb += [
            normaliser.channels.eq(channels),
            normaliser.shift.eq(shift),
            normaliser.surplus.eq(surplus),
            normaliser.valid.eq(issued),
            normaliser.first.eq(reading.at_start),
            normaliser.last.eq(reading.at_end),
            normaliser.scale.eq(scale),
            normaliser.x.eq(tokens.x),
            results.w_en.eq(normaliser.o_valid),
            results.w_data.eq(normaliser.y.as_value()),
            self.o.valid.eq(results.r_rdy),
            self.o.payload.as_value().eq(results.r_data),
            results.r_en.eq(self.o.ready),
        ]
        # Only a command ends idleness, so it may be a register.
        quiet = ~starting.any() & ~more & ~computing & all_free & all_credits
        m.d.sync += self.o_idle.eq(quiet & ~commanded)
        return m
