# amaranth: UnusedElaboratable=no
import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest

from hdl.link import cobs
from hdl.link.token import tokens_of

Drive = Callable[..., Any]
EDGES = [
    b"",
    b"\0",
    b"\0\0",
    b"\1",
    bytes([1] * 253),
    bytes([1] * 254),
    bytes([1] * 255),
    bytes([1] * 254) + b"\0",
    b"\0" + bytes([9] * 254),
    bytes([7] * 508),
    bytes([7] * 509),
    b"\0" * 40,
    bytes([5] * 253) + b"\0\5",
]


def random_packets(seed: int, count: int) -> list[bytes]:
    rng = random.Random(seed)
    return [bytes(rng.choice([0, rng.randrange(256)]) for _ in range(rng.randrange(60))) for _ in range(count)]


def wire_bytes(wire: bytes) -> list[dict[str, int]]:
    return [{"data": byte, "error": 0} for byte in wire]


def test_software_known_vectors() -> None:
    # From the published paper's rules, by hand.
    assert cobs.encode(b"") == b"\x01"
    assert cobs.encode(b"\0") == b"\x01\x01"
    assert cobs.encode(b"\x11\x22\0\x33") == b"\x03\x11\x22\x02\x33"
    assert cobs.encode(bytes(range(1, 255))) == b"\xff" + bytes(range(1, 255))
    assert cobs.encode(bytes(range(256))) == b"\x01\xff" + bytes(range(1, 255)) + b"\x02\xff"


def test_software_round_trip_is_exhaustive_for_short_packets() -> None:
    seen = set()
    for length in range(5):
        for packet in map(bytes, itertools.product((0, 1, 2, 3, 255), repeat=length)):
            encoded = cobs.encode(packet)
            assert 0 not in encoded
            assert cobs.decode(encoded) == packet
            assert len(encoded) + 1 <= cobs.encoded_bound(length)
            seen.add(encoded)
    assert len(seen) == sum(5**length for length in range(5))


@pytest.mark.parametrize("packet", EDGES + random_packets(1, 20))
def test_software_round_trip(packet: bytes) -> None:
    assert cobs.decode(cobs.encode(packet)) == packet


@pytest.mark.parametrize("encoded", [b"", b"\0", b"\x03\x01", b"\xff\x01", b"\x02\0", b"\x01\x02"])
def test_software_refuses_what_is_no_encoding(encoded: bytes) -> None:
    with pytest.raises(cobs.CobsError):
        cobs.decode(encoded)


@pytest.mark.parametrize("seed", [None, 3])
def test_encoder_equals_software(drive: Drive, seed: int | None) -> None:
    packets = EDGES + random_packets(2, 20)
    outputs = drive(cobs.CobsEncoder(), [token for packet in packets for token in tokens_of(packet)], seed=seed)
    assert bytes(outputs) == cobs.CobsEncoder.model(packets)


@pytest.mark.parametrize("seed", [None, 4])
def test_decoder_equals_software(drive: Drive, packets_of: Drive, seed: int | None) -> None:
    packets = EDGES + random_packets(5, 20)
    wire = b"\0\0" + cobs.CobsEncoder.model(packets)
    assert packets_of(drive(cobs.CobsDecoder(), wire_bytes(wire), seed=seed)) == packets


def test_decoder_equals_software_on_any_bytes(drive: Drive, packets_of: Drive) -> None:
    rng = random.Random(6)
    wire = bytes(rng.choice([0, 1, 2, 3, 4, 255]) for _ in range(3000)) + b"\0"
    expected = cobs.CobsDecoder.model(wire)
    assert None in expected and any(expected)
    assert packets_of(drive(cobs.CobsDecoder(), wire_bytes(wire))) == expected


def test_decoder_marks_a_packet_with_a_badly_framed_byte(drive: Drive, packets_of: Drive) -> None:
    wire = wire_bytes(cobs.CobsEncoder.model([b"abc", b"def"]))
    wire[2]["error"] = 1
    assert packets_of(drive(cobs.CobsDecoder(), wire)) == [None, b"def"]
    # A line held low reads as a zero byte with an error: damage, not a delimiter.
    held_low = [{"data": 0, "error": 1}]
    assert packets_of(drive(cobs.CobsDecoder(), held_low + wire_bytes(b"\0"))) == [None]
