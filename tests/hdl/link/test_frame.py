import random
from collections.abc import Callable
from typing import Any

import pytest
from amaranth.sim import Simulator

from hdl.ecp5.block_ram import BlockRam
from hdl.link import cobs
from hdl.link.crc import append_crc
from hdl.link.frame import PACKET_BYTES, FrameReceiver, FrameTransmitter, encode_frame
from hdl.link.protocol import BODY_BYTES, Status
from hdl.link.token import tokens_of

RNG = random.Random(9)
LONGEST = bytes(RNG.randrange(256) for _ in range(2 + BODY_BYTES))


def receive(wire: bytes, *, hold: int = 0) -> list[tuple[Status, bytes]]:
    """Statuses and buffered packets of the receiver for a run of wire bytes."""
    dut = FrameReceiver()
    frames = []

    async def feed(ctx):
        ctx.set(dut.i.valid, 1)
        for byte in wire:
            ctx.set(dut.i.payload, {"data": byte, "error": 0})
            await ctx.tick().until(dut.i.ready)
        ctx.set(dut.i.valid, 0)

    async def take(ctx):
        silence = 0
        while silence < 200:
            _, _, valid, end = await ctx.tick().sample(dut.o.valid, dut.o.payload)
            silence = 0 if valid or ctx.get(dut.i.valid) else silence + 1
            if not valid:
                continue
            packet = bytearray()
            if end.status == Status.OK:
                for address in range(end.length):
                    ctx.set(dut.address, address)
                    await ctx.tick().repeat(BlockRam.LATENCY)
                    packet.append(ctx.get(dut.data))
            await ctx.tick().repeat(hold + 1)
            frames.append((Status(end.status), bytes(packet)))
            ctx.set(dut.o.ready, 1)
            await ctx.tick()
            ctx.set(dut.o.ready, 0)

    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(feed)
    simulator.add_testbench(take)
    simulator.run()
    return frames


@pytest.mark.parametrize("seed", [None, 10])
def test_transmitter_equals_software(drive: Callable[..., Any], seed: int | None) -> None:
    packets = [b"", b"\0", b"ab", bytes(300), *(RNG.randbytes(RNG.randrange(20)) for _ in range(10))]
    outputs = drive(FrameTransmitter(), [token for packet in packets for token in tokens_of(packet)], seed=seed)
    assert bytes(outputs) == FrameTransmitter.model(packets)


def test_receiver_hands_over_good_frames() -> None:
    packets = [b"ab", LONGEST, b"\1\2\0\0", RNG.randbytes(255)]
    frames = receive(FrameTransmitter.model(packets), hold=3)
    assert frames == [(Status.OK, packet) for packet in packets]


def test_receiver_names_the_fault_and_takes_the_next_frame() -> None:
    good = encode_frame(b"good")
    too_long = cobs.encode(append_crc(LONGEST + b"!")) + b"\0"
    cut = encode_frame(b"a frame that is cut")[:9] + b"\0"
    # The last code byte says more bytes than come.
    wrong_block = b"\x09" + b"abc" + b"\0"
    short = cobs.encode(b"abcde") + b"\0"
    bad_crc = cobs.encode(append_crc(b"content")[:-1] + b"\x55") + b"\0"
    assert len(append_crc(LONGEST)) == PACKET_BYTES
    wire = b"".join(fault + good for fault in (too_long, cut, wrong_block, short, bad_crc, b"\0\0"))
    statuses = [Status.OVERSIZE, Status.CORRUPT, Status.CORRUPT, Status.TOO_SHORT, Status.BAD_CRC]
    expected = [frame for status in statuses for frame in ((status, b""), (Status.OK, b"good"))]
    frames = receive(wire)
    assert frames == [*expected, (Status.OK, b"good")]
    assert frames == FrameReceiver.model(wire)


def test_receiver_equals_software_on_every_single_bit_flip() -> None:
    frame = encode_frame(b"\x05\x06\0\x07")
    wire = bytearray()
    for bit in range(8 * len(frame)):
        wire += (int.from_bytes(frame, "little") ^ 1 << bit).to_bytes(len(frame), "little") + b"\0"
    expected = FrameReceiver.model(bytes(wire))
    assert all(status != Status.OK for status, _ in expected)
    assert {Status.BAD_CRC, Status.CORRUPT} <= {status for status, _ in expected}
    assert receive(bytes(wire)) == expected
