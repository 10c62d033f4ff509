"""What one stream transfer of the array is on the wire: bytes, limits, bit layout.

Both ends use this: the executor cuts bodies into transfers, the host packs numpy arrays into them.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from amaranth.hdl import Module, Mux, Shape, Signal, Value
from numpy.typing import NDArray

from .protocol import BODY_BYTES, WRITE_OPCODES, Command, Opcode

__all__ = ["TransferLayout", "pack_nibbles", "pack_words", "unpack_results"]


def bytes_of(shape: Any) -> int:
    """Whole bytes that a payload of ``shape`` takes."""
    return (Shape.cast(shape).width + 7) // 8


@dataclass(frozen=True)
class TransferLayout:
    """Widths and limits of one array, taken from the array itself.

    ``write_shapes`` holds the payload shape of every port that the link drives, by the link's port
    name; ``result_shape`` that of the results. ``codebook_depth`` in steps, ``token_depth`` in
    tokens.
    """

    write_shapes: dict[str, Any]
    result_shape: Any
    codebooks: int
    codebook_depth: int
    token_depth: int

    @classmethod
    def of(cls, array: Any, *, codebook_steps: int) -> "TransferLayout":
        """Layout of a Matmul-like component with ``i_*`` streams, ``o`` and ``geometry``."""
        names = ("codebook", "weights", "scale", "bias", "command", "codes")
        return cls(
            write_shapes={f"o_{name}": getattr(array, f"i_{name}").payload.shape() for name in names},
            result_shape=array.o.payload.shape(),
            codebooks=array.geometry.codebooks,
            codebook_depth=array.geometry.codebooks * codebook_steps,
            token_depth=array.geometry.token_depth,
        )

    @property
    def ports(self) -> dict[Opcode, tuple[str, ...]]:
        """Port names of the link by the opcode that writes to them, in the order of the bytes."""
        single: dict[Opcode, tuple[str, ...]] = {code: (f"o_{code.name.lower()}",) for code in WRITE_OPCODES}
        return {**single, Opcode.BIAS: ("o_bias", "o_scale")}

    @property
    def transfer_bytes(self) -> dict[Opcode, int]:
        """Bytes of one transfer on the wire, by opcode."""
        sizes = {code: sum(bytes_of(self.write_shapes[name]) for name in names) for code, names in self.ports.items()}
        # The address of a step counts up by itself; only the step travels.
        step = self.write_shapes["o_codebook"].members["step"]
        return {**sizes, Opcode.CODEBOOK: bytes_of(step), Opcode.COMMAND: Command.size()}

    @property
    def result_bytes(self) -> int:
        """Bytes of one token of results."""
        return bytes_of(self.result_shape)

    @property
    def read_tokens(self) -> int:
        """Most tokens that one READ may ask for."""
        return BODY_BYTES // self.result_bytes

    def header_bytes(self, code: Opcode) -> int:
        """Bytes of the body before the first transfer."""
        return 2 if code == Opcode.CODEBOOK else 0

    def transfers_per_frame(self, code: Opcode) -> int:
        """Most transfers that fit one body."""
        return (BODY_BYTES - self.header_bytes(code)) // self.transfer_bytes[code]

    def command_fields(self, shift: Signal) -> dict[str, Value]:
        """Fields of a :class:`~hdl.link.protocol.Command` gathered at the top of ``shift``."""
        record = shift[len(shift) - 8 * Command.size() :]
        return {"opcode": record[0:8], "codebook": record[8:16], "flags": record[16:24], "tokens": record[24:40]}

    def command_valid(self, shift: Signal) -> Value:
        """Whether every field of the gathered command is in its range."""
        fields = self.command_fields(shift)
        tokens = fields["tokens"]
        return (
            (fields["opcode"] <= 1)
            & (fields["codebook"] < self.codebooks)
            & (fields["flags"] < 8)
            & Mux(fields["opcode"] == 0, tokens == 0, (tokens != 0) & (tokens <= self.token_depth))
        )

    def accepts(self, command: Command) -> bool:
        """Software twin of :meth:`command_valid`."""
        tokens_fit = command.tokens == 0 if command.opcode == 0 else 1 <= command.tokens <= self.token_depth
        return command.opcode <= 1 and command.codebook < self.codebooks and command.flags < 8 and tokens_fit

    def assign(self, m: Module, name: str, payload: Any, shift: Signal, *, address: Signal) -> None:
        """Drive one port's payload from the transfer gathered at the top of ``shift``.

        Every port has one place in the register: scales come last with biases and alone without.
        """
        if name == "o_command":
            fields = self.command_fields(shift)
            m.d.comb += [
                Value.cast(payload.opcode).eq(fields["opcode"]),
                payload.codebook.eq(fields["codebook"]),
                payload.load_bias.eq(fields["flags"][0]),
                payload.tokens.eq(fields["tokens"]),
                payload.first.eq(fields["flags"][1]),
                payload.last.eq(fields["flags"][2]),
            ]
        elif name == "o_codebook":
            step = shift[len(shift) - 8 * self.transfer_bytes[Opcode.CODEBOOK] :]
            m.d.comb += [payload.address.eq(address), Value.cast(payload.step).eq(step)]
        else:
            above = bytes_of(self.write_shapes["o_scale"]) if name == "o_bias" else 0
            start = len(shift) - 8 * (above + bytes_of(self.write_shapes[name]))
            m.d.comb += Value.cast(payload).eq(shift[start:])


def pack_nibbles(values: NDArray[Any]) -> bytes:
    """One transfer of 4-bit values (weights or codes), first value in the lowest nibble.

    Parameters
    ----------
    values : integer array, any shape, row-major order is transfer order; -8..15, kept modulo 16
    """
    nibbles = np.asarray(values, dtype=np.int64).reshape(-1) & 15
    if nibbles.size % 2:
        nibbles = np.append(nibbles, 0)
    return (nibbles[0::2] | nibbles[1::2] << 4).astype(np.uint8).tobytes()


def pack_words(values: NDArray[Any], dtype: str) -> bytes:
    """One transfer of whole words: ``dtype`` is ``<u2`` for scales, ``<i4`` for biases."""
    return np.ascontiguousarray(values).astype(dtype).tobytes()


def unpack_results(body: bytes, columns: int) -> NDArray[np.int16]:
    """Results of a READ reply, int16 of shape (tokens, columns).

    Raises
    ------
    ValueError
        The body is not a whole number of tokens.
    """
    if len(body) % (2 * columns):
        raise ValueError(f"{len(body)} bytes are not whole tokens of {columns} 16-bit results")
    return np.frombuffer(body, dtype="<i2").reshape(-1, columns)
