"""The host client against the real link and the real array in simulation, bit for bit the contract."""

import dataclasses
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from boards.link import LinkClient, LinkError, open_serial
from hdl.array.geometry import PRESETS
from hdl.link.frame import encode_frame
from hdl.link.protocol import MAGIC, PROTOCOL_VERSION, Command, Identity, Opcode, Status, pack_packet
from sim.contract.codebook import affine_codebook
from sim.contract.errors import UserError
from sim.contract.linear import QuantizedLinear, linear


def layer_of(inputs: int, outputs: int, *, seed: int) -> QuantizedLinear:
    """A layer with random numbers; its first K tile uniform, the others with random codebooks."""
    rng = np.random.default_rng(seed)
    tiles = -(-inputs // 64)
    codebooks = rng.integers(-15, 16, (tiles, 16)).astype(np.int8)
    codebooks[0] = affine_codebook()
    return QuantizedLinear(
        name="test",
        weight=rng.integers(-8, 8, (outputs, inputs)).astype(np.int8),
        scale=rng.integers(1, 60000, (tiles, outputs)).astype(np.uint16),
        bias=rng.integers(-(2**20), 2**20, outputs).astype(np.int32),
        codebooks=codebooks,
        wide_exponent=-8,
    )


def codes_of(tokens: int, inputs: int, *, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 16, (tokens, inputs)).astype(np.uint8)


def test_a_layer_through_link_and_array_equals_the_contract(simulated_board: Callable[..., Any]) -> None:
    layer, codes = layer_of(72, 6, seed=1), codes_of(5, 72, seed=2)
    board = simulated_board()
    client = LinkClient(board)
    assert client.geometry.macs == PRESETS["tiny"].macs
    expected = linear(codes, layer)
    assert len(np.unique(expected)) > 20
    np.testing.assert_array_equal(client.run_linear(codes, layer), expected)
    counters = client.counters()
    assert counters.bad_frames == 0
    assert counters.busy_replies == 0
    assert 0 < counters.busy_cycles < board.cycles


def test_more_tokens_than_results_fit(simulated_board: Callable[..., Any]) -> None:
    """40 tokens: more than the 32 results that the array holds before it stops taking codes."""
    layer, codes = layer_of(16, 4, seed=3), codes_of(40, 16, seed=4)
    np.testing.assert_array_equal(LinkClient(simulated_board()).run_linear(codes, layer), linear(codes, layer))


FAULTS = {
    "bit of a codebook": 10,
    "bit of the LOAD command": 48,
    "bit of the biases and scales": 75,
    "bit of the weights": 105,
}


def test_a_damaged_frame_costs_a_repetition_and_no_bit(simulated_board: Callable[..., Any]) -> None:
    """One fault per run, in frames of every kind: the layer is started again, and its result is exact."""
    layer, codes = layer_of(16, 4, seed=5), codes_of(3, 16, seed=6)
    expected = linear(codes, layer)
    board = simulated_board(watchdog=150, patience=1200)
    client = LinkClient(board)
    wire = bytearray()
    board.tap = wire
    start = board.sent
    np.testing.assert_array_equal(client.run_linear(codes, layer), expected)
    board.tap = None
    length = board.sent - start
    assert length == len(wire)
    bad_before = client.counters().bad_frames
    for name, place in FAULTS.items():
        board.damage = {board.sent + place % length: 3}
        np.testing.assert_array_equal(client.run_linear(codes, layer), expected, err_msg=name)
    delimiters = [position for position, byte in enumerate(wire) if byte == 0]
    board.lost = {board.sent + delimiters[2]}
    np.testing.assert_array_equal(client.run_linear(codes, layer), expected, err_msg="delimiter lost")
    assert client.counters().bad_frames - bad_before == len(FAULTS) + 1


def test_without_retries_the_fault_is_told(simulated_board: Callable[..., Any]) -> None:
    layer, codes = layer_of(16, 4, seed=7), codes_of(2, 16, seed=8)
    board = simulated_board(watchdog=150, patience=1200)
    client = LinkClient(board, retries=0)
    board.damage = {board.sent + 10: 0}
    with pytest.raises(LinkError, match="the board answered CODEBOOK with CORRUPT") as error:
        client.run_linear(codes, layer)
    assert error.value.status == Status.CORRUPT


def test_a_client_takes_over_from_one_that_died_in_a_frame_and_in_a_command(
    simulated_board: Callable[..., Any],
) -> None:
    layer, codes = layer_of(16, 4, seed=9), codes_of(2, 16, seed=10)
    board = simulated_board(watchdog=150, patience=1200)
    first = LinkClient(board)
    first.run_linear(codes, layer)
    # A RUN of three tokens of which one was sent: its result waits, the other two never come.
    run = Command.run(3, first=True, last=True)
    first.exchange([(Opcode.COMMAND, run.pack()), (Opcode.CODES, bytes(8))])
    board.write(b"\x09half a frame")
    second = LinkClient(board, retries=0)
    assert second.identity.idle == 0
    np.testing.assert_array_equal(second.run_linear(codes, layer), linear(codes, layer))
    assert second.counters().busy_replies > 0


class Scripted:
    """A transport that answers anything with the same bytes, once per request."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.pending = b""

    def write(self, data: bytes) -> None:
        if len(data) > 1:
            self.pending += self.answer

    def read(self, size: int) -> bytes:
        piece, self.pending = self.pending[:size], self.pending[size:]
        return piece


def identity_frame(**changes: int) -> bytes:
    fields = (
        {field.name: 1 for field in dataclasses.fields(Identity)}
        | {"magic": MAGIC, "version": PROTOCOL_VERSION}
        | changes
    )
    return encode_frame(pack_packet(1, Status.OK, Identity(**fields).pack()))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"", "no answer to IDENTIFY in time; check cable, port, baud"),
        (identity_frame(magic=7), "what answers is no nibblesam board"),
        (identity_frame(version=9), "the board speaks protocol 9, this host 1; rebuild"),
        (encode_frame(pack_packet(1, Status.OK, b"short")), "identity cannot be read"),
        (encode_frame(pack_packet(1, Status.UNKNOWN_OPCODE)), "answered IDENTIFY with UNKNOWN_OPCODE"),
        (b"noise without end", "no answer to IDENTIFY in time"),
        (b"\x05noise\0", "no answer to IDENTIFY in time"),
        (encode_frame(pack_packet(1, 77)), "status 77, which this host does not know"),
    ],
)
def test_what_is_no_board_is_one_line(answer: bytes, message: str) -> None:
    with pytest.raises(LinkError, match=message):
        LinkClient(Scripted(answer))


def test_wrong_codes_are_refused_before_anything_is_sent() -> None:
    layer = layer_of(16, 4, seed=11)
    transport = Scripted(identity_frame(rows=16, columns=4, loader_rows=8))
    client = LinkClient(transport)
    wrong: list[np.ndarray] = [
        np.zeros((2, 15), np.uint8),
        np.zeros((2, 16), np.int8),
        np.full((2, 16), 16, np.uint8),
        np.zeros(16, np.uint8),
    ]
    for codes in wrong:
        with pytest.raises(UserError, match=r"layer test takes codes uint8 \(tokens, 16\) from 0 to 15"):
            client.run_linear(codes, layer)


def test_a_serial_port_needs_pyserial_and_a_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "serial", None)
    with pytest.raises(UserError, match=r"needs pyserial; install it with: pip install 'nibblesam\[board\]'"):
        open_serial("/dev/ttyUSB0")

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no such device")

    monkeypatch.setitem(sys.modules, "serial", SimpleNamespace(Serial=refuse))
    with pytest.raises(UserError, match="cannot open port /dev/ttyUSB9: no such device"):
        open_serial("/dev/ttyUSB9")
