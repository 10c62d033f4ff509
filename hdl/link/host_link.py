"""The host link: wire bytes on one side, the streams of the array on the other."""

from typing import Any

from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from .device_model import ArrayTwin, DeviceModel
from .executor import CommandExecutor, check_watchdog
from .frame import FrameReceiver, FrameTransmitter
from .protocol import MAGIC, PROTOCOL_VERSION, Identity, Opcode
from .receive_buffer import ReceiveBuffer, check_depth
from .token import ReceivedByte, StreamRegister, Token
from .transfers import TransferLayout

__all__ = ["HostLink", "connect_array"]


class HostLink(wiring.Component):
    """Byte stream to array streams, by the protocol of :mod:`hdl.link.protocol`.

    Ports: ``i`` takes wire bytes, ``o`` gives wire bytes; ``o_codebook``, ``o_weights``,
    ``o_scale``, ``o_bias``, ``o_command``, ``o_codes`` and ``i_results`` face the array;
    ``array_idle`` comes from it. ``failed`` is high while the last reply was an error.

    Throughput: a body byte costs at most 5 cycles in, 5 cycles out; the wire is the bottleneck
    (:class:`~hdl.link.uart.UartReceiver` brings one byte per ``10 * divisor`` cycles).

    Parameters
    ----------
    array : Matmul
        The array to serve; only its ports and its geometry are looked at.
    codebook_steps : int
        Steps of one codebook's sweep program.
    output_depth : int
        Results that the array holds before it stops taking codes; the host reads in such portions.
    clock_khz : int
        Told to the host.
    receive_bytes : int
        Depth of the receive buffer, in bytes.
    watchdog : int
        Cycles that the array may take for one transfer before the answer is BUSY.
    """

    def __init__(
        self,
        array: Any,
        *,
        codebook_steps: int,
        output_depth: int,
        clock_khz: int,
        receive_bytes: int = 2048,
        watchdog: int = 1 << 16,
    ):
        geometry = array.geometry
        self.layout = TransferLayout.of(array, codebook_steps=codebook_steps)
        self.identity = Identity(
            magic=MAGIC,
            version=PROTOCOL_VERSION,
            rows=geometry.rows,
            columns=geometry.columns,
            loader_rows=geometry.loader_rows,
            token_depth=geometry.token_depth,
            codebooks=geometry.codebooks,
            codebook_steps=codebook_steps,
            step_bytes=self.layout.transfer_bytes[Opcode.CODEBOOK],
            output_depth=output_depth,
            receive_bytes=check_depth(receive_bytes),
            clock_khz=clock_khz,
            idle=0,
        )
        self.watchdog = check_watchdog(watchdog)
        super().__init__(
            {
                "i": In(stream.Signature(ReceivedByte)),
                "o": Out(stream.Signature(8)),
                **{name: Out(stream.Signature(shape)) for name, shape in self.layout.write_shapes.items()},
                "i_results": In(stream.Signature(self.layout.result_shape)),
                "array_idle": In(1),
                "failed": Out(1),
            }
        )

    def model(self, array: ArrayTwin) -> DeviceModel:
        """Software twin of this link in front of a software twin of its array."""
        return DeviceModel(self.layout, self.identity, array)

    def elaborate(self, platform):
        m = Module()
        m.submodules.receive_buffer = receive_buffer = ReceiveBuffer(depth=self.identity.receive_bytes)
        m.submodules.receiver = receiver = FrameReceiver()
        m.submodules.executor = executor = CommandExecutor(self.layout, self.identity, watchdog=self.watchdog)
        m.submodules.transmitter = transmitter = FrameTransmitter()
        connect(m, flipped(self.i), receive_buffer.i)
        connect(m, receive_buffer.o, receiver.i)
        connect(m, receiver.o, executor.i)
        # The executor is one large state machine, the transmitter another: not one path through both.
        m.submodules.reply_register = reply_register = StreamRegister(Token)
        connect(m, executor.o, reply_register.i)
        connect(m, reply_register.o, transmitter.i)
        connect(m, transmitter.o, flipped(self.o))
        for name in self.layout.write_shapes:
            connect(m, getattr(executor, name), flipped(getattr(self, name)))
        connect(m, flipped(self.i_results), executor.i_results)
        m.d.comb += [
            receiver.address.eq(executor.address),
            executor.data.eq(receiver.data),
            executor.array_idle.eq(self.array_idle),
            self.failed.eq(executor.failed),
        ]
        return m


def connect_array(m: Module, link: HostLink, array: Any) -> None:
    """Connect every stream of ``link`` to the array that it was made for."""
    for name in link.layout.write_shapes:
        connect(m, getattr(link, name), getattr(array, name.replace("o_", "i_", 1)))
    connect(m, array.o, link.i_results)
    m.d.comb += link.array_idle.eq(array.o_idle)
