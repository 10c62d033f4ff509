"""Host side of the link: quantized linear layers computed by a board, over any byte transport.

A transport is an object with ``write(bytes)`` and ``read(size) -> bytes`` that returns fewer bytes, or none, when
its time-out passes: a ``serial.Serial``, a socket wrapper, or a simulated board.
"""

import importlib
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hdl.array.geometry import ArrayGeometry
from hdl.array.sweep import sweep_program
from hdl.link import cobs
from hdl.link.frame import decode_frame, encode_frame
from hdl.link.protocol import (
    BODY_BYTES,
    LINK_SEQUENCE,
    MAGIC,
    PROTOCOL_VERSION,
    Command,
    Counters,
    Identity,
    Opcode,
    Status,
    pack_packet,
    unpack_packet,
)
from hdl.link.transfers import pack_nibbles, pack_words, unpack_results
from sim.bench.schedule import LOAD, Phase, assemble, schedule
from sim.contract.errors import UserError
from sim.contract.linear import QuantizedLinear

__all__ = ["LinkClient", "LinkError", "Transport", "open_serial"]

Request = tuple[Opcode, bytes]


class LinkError(UserError):
    """The board did not answer, or answered with an error; ``status`` is None when it did not."""

    def __init__(self, message: str, status: Status | None = None):
        super().__init__(message)
        self.status = status


class Transport(Protocol):
    """Bytes to and from a board."""

    def write(self, data: bytes, /) -> Any:
        """Send all of ``data``."""

    def read(self, size: int, /) -> bytes:
        """Up to ``size`` bytes; fewer, or none, when the time-out passes."""


def open_serial(port: str, baud: int = 1_000_000, *, timeout_s: float = 1.0) -> Transport:
    """A serial port as a transport. Raises UserError if pyserial is missing or the port cannot be opened."""
    try:
        serial = importlib.import_module("serial")
    except ImportError as error:
        raise UserError("talking to a board needs pyserial; install it with: pip install 'nibblesam[board]'") from error
    try:
        opened: Transport = serial.Serial(port, baud, timeout=timeout_s)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot open port {port}: {error}; name the board's port, such as /dev/ttyUSB0") from error
    return opened


class LinkClient:
    """Speaks the protocol of :mod:`hdl.link.protocol` to one board.

    Requests are sent ahead of their replies, as far as the board's receive buffer reaches, so that a layer runs at
    the speed of the wire rather than of its round trips.

    Parameters
    ----------
    transport : Transport
    retries : int
        Times that :meth:`run_linear` starts a layer again after a fault of the link.
    """

    #: Bytes that any board can receive before it is known which one it is.
    SMALLEST_WINDOW = 16

    def __init__(self, transport: Transport, *, retries: int = 2):
        self.transport = transport
        self.retries = retries
        self._sequence = 0
        self._received = bytearray()
        self._window = self.SMALLEST_WINDOW
        # Closes whatever frame line noise or an earlier client left open.
        self.transport.write(bytes([cobs.DELIMITER]))
        self.identity = self._identify(first=True)
        self._window = self.identity.receive_bytes
        # Whether no command or result of an earlier layer, or of an earlier client, is left on the board.
        self._settled = bool(self.identity.idle)

    @property
    def geometry(self) -> ArrayGeometry:
        """Sizes of the board's array, as far as a schedule needs them."""
        identity = self.identity
        return ArrayGeometry(
            rows=identity.rows,
            columns=identity.columns,
            loader_rows=identity.loader_rows,
            token_depth=identity.token_depth,
            codebooks=identity.codebooks,
        )

    def _identify(self, *, first: bool = False) -> Identity:
        try:
            identity = Identity.unpack(self.exchange([(Opcode.IDENTIFY, b"")], stray=first)[0])
        except ValueError as error:
            raise LinkError(f"the board's identity cannot be read ({error}); rebuild its bitstream") from error
        if identity.magic != MAGIC:
            raise LinkError("what answers is no nibblesam board; check the port")
        if identity.version != PROTOCOL_VERSION:
            raise LinkError(
                f"the board speaks protocol {identity.version}, this host {PROTOCOL_VERSION}; rebuild its bitstream"
            )
        return identity

    def counters(self) -> Counters:
        """The board's counters; take differences modulo 2^32."""
        return Counters.unpack(self.exchange([(Opcode.COUNTERS, b"")])[0])

    def exchange(self, requests: Iterable[Request], *, stray: bool = False) -> list[bytes]:
        """Bodies of the replies to ``requests``, in order, ahead-sent within the board's receive buffer.

        Raises :class:`LinkError` at the first reply that is no OK, after the replies to everything already sent have
        been taken. ``stray`` skips replies to frames sent before this call.
        """
        bodies: list[bytes] = []
        waiting: deque[tuple[int, Opcode, int]] = deque()
        fault: LinkError | None = None
        in_flight = 0
        source = iter(requests)
        request = next(source, None)
        while request is not None or waiting:
            if request is not None and fault is None:
                sequence = self._sequence % 255 + 1
                frame = encode_frame(pack_packet(sequence, *request))
                if not waiting or in_flight + len(frame) <= self._window:
                    self.transport.write(frame)
                    self._sequence = sequence
                    waiting.append((sequence, request[0], len(frame)))
                    in_flight += len(frame)
                    request = next(source, None)
                    continue
            if not waiting:
                break
            sequence, opcode, length = waiting[0]
            answered, status, body = self._reply(opcode)
            if answered != sequence and stray:
                continue
            waiting.popleft()
            in_flight -= length
            if answered == sequence and status == Status.OK:
                bodies.append(body)
            elif fault is None:
                fault = self._fault(opcode, sequence, answered, status, body)
        if fault is not None:
            raise fault
        return bodies

    @staticmethod
    def _fault(opcode: Opcode, sequence: int, answered: int, status: Status, body: bytes) -> LinkError:
        if answered not in (sequence, LINK_SEQUENCE):
            return LinkError(f"{opcode.name} {sequence} was answered as {answered}; the link lost a frame")
        taken = f" after {int.from_bytes(body, 'little')} transfers" if status == Status.BUSY else ""
        return LinkError(f"the board answered {opcode.name} with {status.name}{taken}", status)

    def _reply(self, opcode: Opcode) -> tuple[int, Status, bytes]:
        while True:
            while cobs.DELIMITER not in self._received:
                piece = self.transport.read(BODY_BYTES)
                if not piece:
                    raise LinkError(f"no answer to {opcode.name} in time; check cable, port, baud and bitstream")
                self._received += piece
            frame, _, rest = bytes(self._received).partition(bytes([cobs.DELIMITER]))
            self._received[:] = rest
            if frame:
                break
        status, packet = decode_frame(frame)
        if status != Status.OK:
            return LINK_SEQUENCE, status, b""
        sequence, kind, body = unpack_packet(packet)
        try:
            return sequence, Status(kind), body
        except ValueError as error:
            message = f"the board answered {opcode.name} with status {kind}, which this host does not know"
            raise LinkError(message) from error

    def recover(self) -> None:
        """Bring the board back to idle after a fault: finish its command with zeros and throw its results away.

        Raises :class:`LinkError` if it does not become idle.
        """
        self.transport.write(bytes([cobs.DELIMITER]))
        while self.transport.read(BODY_BYTES):
            pass
        self._received.clear()
        zeros = self._zero_transfers()
        # A command needs at most its scale, bias, weights, and token_depth codes.
        for _ in range(4 + self.identity.loader_rows + self.identity.token_depth):
            while self._attempt(self._read_request(1)):
                pass
            if self._identify().idle:
                self._settled = True
                return
            for request in zeros:
                self._attempt(request)
        raise LinkError("the board stays busy; load its bitstream again")

    def _attempt(self, request: Request) -> bytes:
        """Body of the reply, empty when the board is busy."""
        try:
            return self.exchange([request])[0]
        except LinkError as error:
            if error.status != Status.BUSY:
                raise
            return b""

    def _zero_transfers(self) -> list[Request]:
        identity = self.identity
        sizes = {
            Opcode.SCALE: 2 * identity.columns,
            Opcode.BIAS: 6 * identity.columns,
            Opcode.WEIGHTS: identity.loader_rows * identity.columns // 2,
            Opcode.CODES: identity.rows // 2 * min(identity.output_depth, BODY_BYTES // (identity.rows // 2)),
        }
        return [(opcode, bytes(size)) for opcode, size in sizes.items()]

    @staticmethod
    def _read_request(tokens: int) -> Request:
        return Opcode.READ, tokens.to_bytes(2, "little")

    def run_linear(self, codes: NDArray[np.uint8], layer: QuantizedLinear) -> NDArray[np.int16]:
        """Wide results int16 (tokens, N) of ``layer`` for codes uint8 (tokens, K) in permuted order.

        The bits are those of :func:`sim.contract.linear.linear`. Raises UserError for codes of another shape or type,
        :class:`LinkError` when the link failed more than ``retries`` times.
        """
        if (
            codes.ndim != 2
            or codes.shape[1] != layer.in_features
            or codes.dtype != np.uint8
            or codes.max(initial=0) > 15
        ):
            raise UserError(
                f"layer {layer.name} takes codes uint8 (tokens, {layer.in_features}) from 0 to 15, "
                f"found {codes.dtype} {codes.shape}"
            )
        phases = schedule(codes, layer, self.geometry)
        attempts_left = self.retries
        while True:
            try:
                if not self._settled:
                    self.recover()
                self._settled = False
                results = [self._run_phase(phase) for phase in phases]
                self._settled = True
                return assemble(phases, results, (codes.shape[0], layer.out_features))
            except LinkError:
                if attempts_left == 0:
                    raise
                attempts_left -= 1

    def _run_phase(self, phase: Phase) -> NDArray[np.int16]:
        expected = phase.output_transfers
        requests = list(self._requests(phase))
        replies = zip(requests, self.exchange(requests), strict=True)
        body = b"".join(body for (opcode, _), body in replies if opcode == Opcode.READ)
        results = unpack_results(body, self.identity.columns)
        if len(results) != expected:
            raise LinkError(f"the board gave {len(results)} of {expected} results")
        return results

    def _requests(self, phase: Phase) -> Iterator[Request]:
        """The phase as requests, in an order in which the array is ready for each when it arrives."""
        identity = self.identity
        for index, levels in enumerate(phase.codebooks):
            program = [step.to_bytes(identity.step_bytes, "little") for step in sweep_program(levels)]
            address = index * identity.codebook_steps
            yield Opcode.CODEBOOK, address.to_bytes(2, "little") + b"".join(program)
        weights, scales = iter(phase.weights), iter(phase.scale)
        biases, codes = iter(phase.bias), iter(phase.codes)
        for command in phase.commands:
            if command.opcode == LOAD:
                yield Opcode.COMMAND, Command.load(command.codebook, load_bias=command.load_bias).pack()
                scale = pack_words(next(scales), "<u2")
                if command.load_bias:
                    yield Opcode.BIAS, pack_words(next(biases), "<i4") + scale
                else:
                    yield Opcode.SCALE, scale
                tile = next(weights)
                groups = [
                    pack_nibbles(tile[row : row + identity.loader_rows])
                    for row in range(0, identity.rows, identity.loader_rows)
                ]
                for _, portion in portions(groups, BODY_BYTES // len(groups[0])):
                    yield Opcode.WEIGHTS, portion
            else:
                run = Command.run(command.tokens, first=command.first, last=command.last)
                yield Opcode.COMMAND, run.pack()
                tokens = [pack_nibbles(token) for token in next(codes)]
                most = BODY_BYTES // len(tokens[0])
                if command.last:
                    # No more than the array can hold results for, or it would stop taking codes.
                    most = min(most, identity.output_depth, BODY_BYTES // (2 * identity.columns))
                for count, portion in portions(tokens, most):
                    yield Opcode.CODES, portion
                    if command.last:
                        yield self._read_request(count)


def portions(transfers: list[bytes], most: int) -> Iterator[tuple[int, bytes]]:
    """Runs of at most ``most`` transfers: their number and their bytes."""
    for start in range(0, len(transfers), most):
        run = transfers[start : start + most]
        yield len(run), b"".join(run)
