import random

import pytest
from amaranth.sim import Simulator

from hdl.link.crc import append_crc, crc32, crc_processor, strip_crc


def test_published_check_value() -> None:
    assert crc32(b"123456789") == 0xCBF43926
    assert append_crc(b"123456789")[-4:] == bytes.fromhex("2639f4cb")


def test_every_single_and_double_bit_flip_of_a_short_packet_is_found() -> None:
    good = append_crc(b"nibble")
    bits = 8 * len(good)
    number = int.from_bytes(good, "little")
    for first in range(bits):
        for second in range(first, bits):
            bad = number ^ (1 << first | 1 << second) if second != first else number ^ 1 << first
            with pytest.raises(ValueError, match="CRC is"):
                strip_crc(bad.to_bytes(len(good), "little"))
    assert strip_crc(good) == b"nibble"


def test_too_short_for_a_check_value() -> None:
    with pytest.raises(ValueError, match="no room"):
        strip_crc(b"abc")


def test_hardware_equals_software() -> None:
    dut = crc_processor()
    rng = random.Random(7)
    packets = [rng.randbytes(rng.randrange(1, 40)) for _ in range(10)] + [b"123456789"]

    async def bench(ctx):
        for packet in packets:
            ctx.set(dut.start, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            ctx.set(dut.valid, 1)
            for byte in packet:
                ctx.set(dut.data, byte)
                await ctx.tick()
            assert ctx.get(dut.crc) == crc32(packet)
            assert not ctx.get(dut.match_detected)
            for byte in append_crc(packet)[-4:]:
                ctx.set(dut.data, byte)
                await ctx.tick()
            assert ctx.get(dut.match_detected)
            ctx.set(dut.valid, 0)

    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(bench)
    simulator.run()
