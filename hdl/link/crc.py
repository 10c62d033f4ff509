"""CRC-32 of a frame, in software and as the hardware parameters.

CRC-32/ISO-HDLC (IEEE 802.3, the one of zlib and PNG): polynomial 0x04C11DB7, reflected, start and
final XOR 0xFFFFFFFF. The check value travels little-endian after the packet. It finds every burst
of up to 32 bits and every error of up to 3 bits in frames of the length used here; a random
damage passes with probability 2^-32.
"""

import zlib

from amaranth.lib.crc import Parameters, Processor, catalog

__all__ = ["CRC_BYTES", "append_crc", "crc32", "crc_processor", "strip_crc"]

#: Bytes that the check value adds to a packet.
CRC_BYTES = 4


def crc32(packet: bytes) -> int:
    """Check value of ``packet``, an unsigned 32-bit integer."""
    return zlib.crc32(packet)


def append_crc(packet: bytes) -> bytes:
    """``packet`` followed by its check value (4 bytes, little-endian)."""
    return packet + crc32(packet).to_bytes(CRC_BYTES, "little")


def strip_crc(packet: bytes) -> bytes:
    """Content of a packet that ends in its check value.

    Raises
    ------
    ValueError
        The packet is shorter than a check value, or the check value is not that of the content.
    """
    if len(packet) < CRC_BYTES:
        raise ValueError(f"a packet of {len(packet)} bytes has no room for a {CRC_BYTES}-byte CRC")
    content, found = packet[:-CRC_BYTES], int.from_bytes(packet[-CRC_BYTES:], "little")
    if crc32(content) != found:
        raise ValueError(f"CRC is 0x{found:08x}, the content has 0x{crc32(content):08x}")
    return content


def crc_processor() -> Processor:
    """Hardware twin of :func:`crc32`: one byte per cycle, result one cycle later.

    Its ``match_detected`` is high when the bytes so far end in the check value of those before.
    """
    return Processor(Parameters(catalog.CRC32_ISO_HDLC, data_width=8))
