"""Software twin of :class:`~hdl.link.host_link.HostLink`: request bytes in, reply bytes out."""

from dataclasses import replace
from typing import Protocol

from . import cobs
from .frame import decode_frame, encode_frame
from .protocol import (
    LINK_SEQUENCE,
    WRITE_OPCODES,
    Command,
    Counters,
    Identity,
    Opcode,
    Status,
    pack_packet,
    unpack_packet,
)
from .transfers import TransferLayout

__all__ = ["ArrayTwin", "DeviceModel"]


class ArrayTwin(Protocol):
    """What the twin of the link needs of a twin of the array."""

    def offer(self, opcode: Opcode, transfer: bytes, address: int) -> bool:
        """Take one transfer (``address`` counts codebook steps), or refuse: the answer is then BUSY."""

    def result(self) -> bytes | None:
        """Next token of results, or None if none will come."""

    def idle(self) -> bool:
        """Whether no command is active."""


class DeviceModel:
    """A board without hardware: what :class:`~hdl.link.host_link.HostLink` and its array answer.

    Everything but time is modelled; ``busy_cycles`` of the counters stays 0.

    Parameters
    ----------
    layout, identity : as :class:`~hdl.link.executor.CommandExecutor` takes them
    array : ArrayTwin
        Receives the transfers and gives the results.
    """

    def __init__(self, layout: TransferLayout, identity: Identity, array: ArrayTwin):
        self.layout = layout
        self.identity = identity
        self.array = array
        self.counters = Counters(0, 0, 0, 0)
        self._open = bytearray()

    def respond(self, wire: bytes) -> bytes:
        """Reply bytes to the next bytes off the wire; an unfinished frame waits for its rest."""
        self._open += wire
        *frames, rest = bytes(self._open).split(bytes([cobs.DELIMITER]))
        self._open[:] = rest
        return b"".join(encode_frame(self._answer(frame)) for frame in frames if frame)

    def _count(self, name: str) -> None:
        self.counters = replace(self.counters, **{name: (getattr(self.counters, name) + 1) % 2**32})

    def _answer(self, frame: bytes) -> bytes:
        status, packet = decode_frame(frame)
        if status != Status.OK:
            self._count("bad_frames")
            return pack_packet(LINK_SEQUENCE, status)
        self._count("good_frames")
        sequence, opcode, body = unpack_packet(packet)
        if sequence == LINK_SEQUENCE:
            return pack_packet(sequence, Status.OUT_OF_RANGE)
        status, reply = self._execute(opcode, body)
        return pack_packet(sequence, status, reply)

    def _execute(self, opcode: int, body: bytes) -> tuple[Status, bytes]:
        if opcode in (Opcode.IDENTIFY, Opcode.COUNTERS):
            if body:
                return Status.BAD_LENGTH, b""
            live = replace(self.identity, idle=int(self.array.idle()))
            return Status.OK, live.pack() if opcode == Opcode.IDENTIFY else self.counters.pack()
        if opcode == Opcode.READ:
            return self._read(body)
        if opcode in WRITE_OPCODES:
            return self._write(Opcode(opcode), body)
        return Status.UNKNOWN_OPCODE, b""

    def _read(self, body: bytes) -> tuple[Status, bytes]:
        if len(body) != 2:
            return Status.BAD_LENGTH, b""
        tokens = int.from_bytes(body, "little")
        if not 1 <= tokens <= self.layout.read_tokens:
            return Status.OUT_OF_RANGE, b""
        results = bytearray()
        for _ in range(tokens):
            result = self.array.result()
            if result is None:
                break
            results += result
        return Status.OK, bytes(results)

    def _write(self, opcode: Opcode, body: bytes) -> tuple[Status, bytes]:
        size = self.layout.transfer_bytes[opcode]
        header, content = body[: self.layout.header_bytes(opcode)], body[self.layout.header_bytes(opcode) :]
        if not content or len(content) % size or (opcode == Opcode.COMMAND and len(content) != size):
            return Status.BAD_LENGTH, b""
        address = int.from_bytes(header, "little")
        if opcode == Opcode.CODEBOOK and address + len(content) // size > self.layout.codebook_depth:
            return Status.OUT_OF_RANGE, b""
        if opcode == Opcode.COMMAND and not self.layout.accepts(Command.unpack(content)):
            return Status.OUT_OF_RANGE, b""
        taken = 0
        for start in range(0, len(content), size):
            if not self.array.offer(opcode, content[start : start + size], address + taken):
                self._count("busy_replies")
                return Status.BUSY, taken.to_bytes(2, "little")
            taken += 1
        return Status.OK, taken.to_bytes(2, "little")
