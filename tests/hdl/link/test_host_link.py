# amaranth: UnusedElaboratable=no
import random
from collections import deque
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from amaranth.hdl import Value, signed, unsigned
from amaranth.lib import data, stream
from amaranth.sim import Simulator

from hdl.link import cobs
from hdl.link.crc import append_crc
from hdl.link.frame import encode_frame
from hdl.link.host_link import HostLink
from hdl.link.protocol import BODY_BYTES, Command, Counters, Identity, Opcode, Status, pack_packet, unpack_packet

ROWS, COLUMNS, LOADER_ROWS, CODEBOOKS, STEPS = 6, 3, 3, 4, 5
PATIENCE = 8000  # cycles; the longest frame is carried out in fewer
SILENCE = 2500  # cycles; a longest frame needs fewer from its first byte to its reply


def array_ports() -> SimpleNamespace:
    """Ports of an array of odd sizes: a transfer of weights is 4.5 bytes, one of codes 3."""

    def port(shape: Any) -> Any:
        return stream.Signature(shape).create()

    step = data.StructLayout({"add": 1, "write": 1, "entry": 4})
    command = {"opcode": 1, "codebook": 2, "load_bias": 1, "tokens": range(21), "first": 1, "last": 1}
    return SimpleNamespace(
        geometry=SimpleNamespace(
            rows=ROWS, columns=COLUMNS, loader_rows=LOADER_ROWS, token_depth=20, codebooks=CODEBOOKS
        ),
        i_command=port(data.StructLayout(command)),
        i_codebook=port(data.StructLayout({"address": range(CODEBOOKS * STEPS), "step": step})),
        i_weights=port(data.ArrayLayout(data.ArrayLayout(signed(4), COLUMNS), LOADER_ROWS)),
        i_scale=port(data.ArrayLayout(unsigned(16), COLUMNS)),
        i_bias=port(data.ArrayLayout(signed(32), COLUMNS)),
        i_codes=port(data.ArrayLayout(unsigned(4), ROWS)),
        o=port(data.ArrayLayout(signed(16), COLUMNS)),
    )


@dataclass
class Bench:
    """A link whose array side is driven by hand: takes ``capacity`` transfers per port, gives ``results``."""

    capacity: dict[str, int] = field(default_factory=dict)
    results: list[bytes] = field(default_factory=list)
    taken: list[tuple[str, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.link = HostLink(
            array_ports(), codebook_steps=STEPS, output_depth=4, clock_khz=1, receive_bytes=64, watchdog=20
        )
        self.queue = deque(self.results)

    def offer(self, opcode: Opcode, transfer: bytes, address: int) -> bool:
        ports = self.link.layout.ports[opcode]
        taken = all(self.room(port) > sum(name == port for name, _ in self.taken) for port in ports)
        if taken:
            self.taken += self.payloads(opcode, transfer, address)
        return taken

    def room(self, port: str) -> int:
        return self.capacity.get(port, 1 << 20)

    def result(self) -> bytes | None:
        return self.queue.popleft() if self.queue else None

    def idle(self) -> bool:
        return True

    def payloads(self, opcode: Opcode, transfer: bytes, address: int) -> list[tuple[str, int]]:
        """Bits of the stream payloads that a transfer must turn into."""
        number = int.from_bytes(transfer, "little")
        if opcode == Opcode.COMMAND:
            command = Command.unpack(transfer)
            bits = [command.flags >> bit & 1 for bit in range(3)]
            number = (command.opcode | command.codebook << 1 | bits[0] << 3 | command.tokens << 4
                      | bits[1] << 9 | bits[2] << 10)  # fmt: skip
        if opcode == Opcode.CODEBOOK:
            number = address | (number & 63) << 5
        if opcode == Opcode.BIAS:
            bias_bits = 32 * COLUMNS
            return [("o_bias", number & ((1 << bias_bits) - 1)), ("o_scale", number >> bias_bits)]
        (port,) = self.link.layout.ports[opcode]
        width = Value.cast(getattr(self.link, port).payload).shape().width
        return [(port, number & ((1 << width) - 1))]

    def simulate(
        self, wire: bytes | list[dict[str, int]], *, silence: int = SILENCE
    ) -> tuple[list[tuple[int, Status, bytes]], int]:
        """Replies of the hardware to wire bytes, and cycles until the last one; fills ``taken``."""
        link, replies, state = self.link, bytearray(), {"sent": False, "cycles": 0}
        pending = deque(self.results)

        async def feed(ctx: Any) -> None:
            ctx.set(link.array_idle, 1)
            ctx.set(link.i.valid, 1)
            for byte in wire:
                ctx.set(link.i.payload, byte if isinstance(byte, dict) else {"data": byte, "error": 0})
                for _ in range(PATIENCE):
                    _, _, taken = await ctx.tick().sample(link.i.ready)
                    if taken:
                        break
                else:
                    raise AssertionError(f"the link took no byte for {PATIENCE} cycles: it hangs")
            ctx.set(link.i.valid, 0)
            state["sent"] = True

        async def collect(ctx: Any) -> None:
            ctx.set(link.o.ready, 1)
            quiet = 0
            while not (state["sent"] and quiet > silence):
                _, _, valid, byte = await ctx.tick().sample(link.o.valid, link.o.payload)
                quiet = 0 if valid else quiet + 1
                if valid:
                    replies.append(byte)
                state["cycles"] += 1

        def take(name: str) -> Any:
            async def bench(ctx: Any) -> None:
                port = getattr(link, name)
                left = self.room(name)
                ctx.set(port.ready, left > 0)
                async for _, _, valid, bits in ctx.tick().sample(port.valid, Value.cast(port.payload)):
                    if valid and left:
                        self.taken.append((name, bits))
                        left -= 1
                        ctx.set(port.ready, left > 0)

            return bench

        async def give(ctx: Any) -> None:
            port = link.i_results
            while pending:
                number = int.from_bytes(pending.popleft(), "little")
                words = [number >> 16 * column & 0xFFFF for column in range(COLUMNS)]
                ctx.set(port.payload, [word - (word >> 15 << 16) for word in words])
                ctx.set(port.valid, 1)
                await ctx.tick().until(port.ready)
            ctx.set(port.valid, 0)

        simulator = Simulator(link)
        simulator.add_clock(1e-8)
        simulator.add_testbench(feed)
        simulator.add_testbench(collect)
        for name in link.layout.write_shapes:
            simulator.add_testbench(take(name), background=True)
        simulator.add_testbench(give, background=True)
        simulator.run()
        return parse(bytes(replies)), state["cycles"] - silence


def parse(wire: bytes) -> list[tuple[int, Status, bytes]]:
    """Replies on the wire; fails if any is not a whole good frame."""
    assert not wire or wire[-1] == 0
    replies = []
    for frame in wire.split(b"\0")[:-1]:
        packet = cobs.decode(frame)
        assert append_crc(packet[:-4]) == packet
        sequence, status, body = unpack_packet(packet[:-4])
        replies.append((sequence, Status(status), body))
    return replies


def request(sequence: int, opcode: int, body: bytes = b"") -> bytes:
    return encode_frame(pack_packet(sequence, opcode, body))


def run_both(
    wire: bytes, capacity: dict[str, int] | None = None, results: list[bytes] | None = None
) -> list[tuple[int, Status, bytes]]:
    """Replies of the hardware, after checking that the software twin says and hands on the same."""
    hardware, software = Bench(capacity or {}, results or []), Bench(capacity or {}, results or [])
    replies, _ = hardware.simulate(wire)
    assert replies == parse(software.link.model(software).respond(wire))
    assert sorted(hardware.taken) == sorted(software.taken)
    for port in hardware.link.layout.write_shapes:
        sides = [[bits for name, bits in bench.taken if name == port] for bench in (hardware, software)]
        assert sides[0] == sides[1]
    return replies


def test_identify_and_counters() -> None:
    replies = run_both(request(7, Opcode.IDENTIFY) + b"\x02\x11\0" + request(8, Opcode.COUNTERS))
    identity = Identity.unpack(replies[0][2])
    assert replies[0][:2] == (7, Status.OK)
    assert (identity.rows, identity.columns, identity.loader_rows) == (ROWS, COLUMNS, LOADER_ROWS)
    assert (identity.codebook_steps, identity.step_bytes, identity.idle) == (STEPS, 1, 1)
    assert identity.magic.to_bytes(4, "little") == b"nSAM"
    assert replies[1] == (0, Status.TOO_SHORT, b"")
    assert Counters.unpack(replies[2][2]) == Counters(good_frames=2, bad_frames=1, busy_replies=0, busy_cycles=0)


def test_every_stream_receives_its_transfers_in_order() -> None:
    rng = random.Random(11)
    wire = b"".join(
        [
            request(1, Opcode.CODEBOOK, (9).to_bytes(2, "little") + rng.randbytes(11)),
            request(2, Opcode.COMMAND, Command.load(3, load_bias=True).pack()),
            request(3, Opcode.SCALE, rng.randbytes(6)),
            request(4, Opcode.BIAS, rng.randbytes(36)),
            request(5, Opcode.WEIGHTS, rng.randbytes(15)),
            request(6, Opcode.COMMAND, Command.run(20, first=True, last=False).pack()),
            request(255, Opcode.CODES, rng.randbytes(60)),
        ]
    )
    taken = [11, 1, 1, 2, 3, 1, 20]
    assert run_both(wire) == [
        (sequence, Status.OK, count.to_bytes(2, "little"))
        for sequence, count in zip([1, 2, 3, 4, 5, 6, 255], taken, strict=True)
    ]


def test_read_gives_what_is_there() -> None:
    results = [random.Random(seed).randbytes(6) for seed in range(5)]
    wire = b"".join(request(1 + n, Opcode.READ, n.to_bytes(2, "little")) for n in (2, 4, 1))
    replies = run_both(wire, results=results)
    assert [body for _, _, body in replies] == [b"".join(results[:2]), b"".join(results[2:]), b""]
    assert {status for _, status, _ in replies} == {Status.OK}


def test_a_stream_that_never_becomes_ready_is_answered_busy() -> None:
    wire = request(1, Opcode.CODES, bytes(range(12))) + request(2, Opcode.SCALE, bytes(6)) + request(3, Opcode.COUNTERS)
    replies = run_both(wire, capacity={"o_codes": 2, "o_scale": 0})
    assert replies[:2] == [(1, Status.BUSY, b"\2\0"), (2, Status.BUSY, b"\0\0")]
    assert Counters.unpack(replies[2][2]).busy_replies == 2


def test_bias_and_scale_are_offered_together_and_taken_apart() -> None:
    """An array that takes the scale at once and the bias never: the scale must not be handed on twice."""
    body = bytes(range(18))
    bench = Bench(capacity={"o_bias": 0})
    replies, _ = bench.simulate(request(1, Opcode.BIAS, body))
    assert replies == [(1, Status.BUSY, b"\0\0")]
    assert bench.taken == [("o_scale", int.from_bytes(body[12:], "little"))]


BAD_BODIES = [
    (Opcode.IDENTIFY, b"x", Status.BAD_LENGTH),
    (Opcode.COUNTERS, b"xy", Status.BAD_LENGTH),
    (Opcode.CODEBOOK, b"", Status.BAD_LENGTH),
    (Opcode.CODEBOOK, b"\0\0", Status.BAD_LENGTH),
    (Opcode.CODEBOOK, (20).to_bytes(2, "little") + b"s", Status.OUT_OF_RANGE),
    (Opcode.CODEBOOK, b"\xff\xffs", Status.OUT_OF_RANGE),
    (Opcode.CODEBOOK, (15).to_bytes(2, "little") + b"sixsix", Status.OUT_OF_RANGE),
    (Opcode.WEIGHTS, bytes(4), Status.BAD_LENGTH),
    (Opcode.WEIGHTS, bytes(11), Status.BAD_LENGTH),
    (Opcode.SCALE, bytes(7), Status.BAD_LENGTH),
    (Opcode.BIAS, b"", Status.BAD_LENGTH),
    (Opcode.CODES, bytes(BODY_BYTES), Status.BAD_LENGTH),
    (Opcode.COMMAND, bytes(10), Status.BAD_LENGTH),
    (Opcode.COMMAND, Command(2, 0, 0, 1).pack(), Status.OUT_OF_RANGE),
    (Opcode.COMMAND, Command(0, CODEBOOKS, 0, 0).pack(), Status.OUT_OF_RANGE),
    (Opcode.COMMAND, Command(0, 0, 8, 0).pack(), Status.OUT_OF_RANGE),
    (Opcode.COMMAND, Command(0, 0, 0, 1).pack(), Status.OUT_OF_RANGE),
    (Opcode.COMMAND, Command(1, 0, 0, 0).pack(), Status.OUT_OF_RANGE),
    (Opcode.COMMAND, Command(1, 0, 0, 21).pack(), Status.OUT_OF_RANGE),
    (Opcode.READ, b"\1", Status.BAD_LENGTH),
    (Opcode.READ, b"\0\0", Status.OUT_OF_RANGE),
    (Opcode.READ, (BODY_BYTES // 6 + 1).to_bytes(2, "little"), Status.OUT_OF_RANGE),
    (0, b"", Status.UNKNOWN_OPCODE),
    (10, b"abc", Status.UNKNOWN_OPCODE),
    (255, b"", Status.UNKNOWN_OPCODE),
]


def test_a_body_is_judged_before_any_of_it_is_handed_on() -> None:
    wire = b"".join(request(1 + n, opcode, body) for n, (opcode, body, _) in enumerate(BAD_BODIES))
    wire += request(0, Opcode.IDENTIFY)
    hardware = Bench()
    replies, _ = hardware.simulate(wire)
    expected = [(1 + n, status, b"") for n, (_, _, status) in enumerate(BAD_BODIES)]
    assert replies == [*expected, (0, Status.OUT_OF_RANGE, b"")]
    assert hardware.taken == []
    assert replies == parse(Bench().link.model(Bench()).respond(wire))


def damaged(rng: random.Random, kind: str) -> bytes:
    """Wire bytes with one fault of a kind, closed by a delimiter."""
    body = rng.randbytes(3 * rng.randrange(1, 4))
    frame = request(rng.randrange(1, 256), rng.choice(list(Opcode)), body)
    bit, place = rng.randrange(8 * (len(frame) - 1)), rng.randrange(len(frame) - 1)
    long = append_crc(rng.randbytes(BODY_BYTES + 3 + rng.randrange(60)))
    faults = {
        "bit flip": (int.from_bytes(frame, "little") ^ 1 << bit).to_bytes(len(frame), "little"),
        "truncated": frame[: max(place, 1)] + b"\0",
        "byte lost": frame[:place] + frame[place + 1 :],
        "byte doubled": frame[: place + 1] + frame[place:],
        "delimiter lost": frame[:-1] + request(1, Opcode.IDENTIFY),
        "garbage": rng.randbytes(rng.randrange(1, 30)) + b"\0",
        "runt": cobs.encode(rng.randbytes(rng.randrange(6))) + b"\0",
        "wrong CRC": cobs.encode(pack_packet(1, Opcode.CODES, body) + rng.randbytes(4)) + b"\0",
        "oversize": cobs.encode(long) + b"\0",
    }
    return faults[kind]


KINDS = ["bit flip", "truncated", "byte lost", "byte doubled", "delimiter lost", "garbage", "wrong CRC", "runt"]


@pytest.mark.parametrize("seed", [20, 21])
def test_faulty_frames_are_answered_and_the_next_good_frame_works(seed: int) -> None:
    """130 faulty frames per seed; each is answered as the twin says, and a good one follows."""
    rng = random.Random(seed)
    faults = [damaged(rng, kind) for kind in KINDS * 16] + [damaged(rng, "oversize") for _ in range(2)]
    probe = request(99, Opcode.SCALE, b"nibble")
    wire = b"".join(fault + probe for fault in faults)
    replies = run_both(wire)
    assert sum(reply == (99, Status.OK, b"\1\0") for reply in replies) == len(faults)
    errors = [reply for reply in replies if reply[0] == 0]
    assert len(errors) >= len(faults)  # garbage may hold several delimiters, so several frames
    assert {status for _, status, _ in errors} >= {Status.CORRUPT, Status.BAD_CRC, Status.TOO_SHORT, Status.OVERSIZE}
    assert not any(body for _, _, body in errors)


def test_a_byte_with_a_missing_stop_bit_damages_its_frame_only() -> None:
    wire = [
        {"data": byte, "error": 0} for byte in request(1, Opcode.SCALE, bytes(6)) + request(2, Opcode.READ, b"\1\0")
    ]
    wire[4]["error"] = 1
    bench = Bench()
    assert bench.simulate(wire)[0] == [(0, Status.CORRUPT, b""), (2, Status.OK, b"")]
    assert bench.taken == []


def test_latency_stays_below_the_formula() -> None:
    body = bytes(3 * 300)
    wire = request(1, Opcode.CODES, body)
    _, cycles = Bench().simulate(wire, silence=6000)
    receive = 2 * len(wire) + 8
    execute = 3 * len(body) + 6 * (len(body) // 3) + 14
    reply = 8 * 10
    assert execute < cycles < receive + execute + reply


@pytest.mark.parametrize(
    ("keywords", "message"),
    [({"watchdog": 15}, "watchdog must be from 16"), ({"receive_bytes": 8}, "depth must be from 16 to 16384 bytes")],
)
def test_parameters_are_checked(keywords: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HostLink(array_ports(), codebook_steps=STEPS, output_depth=4, clock_khz=1, **keywords)
