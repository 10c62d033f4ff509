"""Byte tokens: a stream of packets whose last byte is not known in advance.

A packet is a run of tokens with ``end = 0``, one byte each, closed by one token with ``end = 1``
that carries no byte. A separate closing token lets a source finish a packet after it has already
handed over the last byte (a READ that runs out of results, a COBS block that meets its delimiter).
"""

from amaranth.lib import data

__all__ = ["ReceivedByte", "Token", "tokens_of"]

#: One byte off the wire: ``data`` (8 bits), and ``error`` for a byte whose stop bit was missing.
ReceivedByte = data.StructLayout({"data": 8, "error": 1})


#: Layout of one token: ``data`` (8 bits), ``end`` (closes the packet), ``error`` (valid with
#: ``end``: the packet is damaged and its bytes must not be believed).
Token = data.StructLayout({"data": 8, "end": 1, "error": 1})


def tokens_of(packet: bytes) -> list[dict[str, int]]:
    """Token payloads of one undamaged packet, as the simulator takes them.

    Parameters
    ----------
    packet : bytes
        Content, any length (an empty packet is a lone closing token).

    Returns
    -------
    list of dict
        ``len(packet) + 1`` payloads for :data:`Token`.
    """
    content = [{"data": byte, "end": 0, "error": 0} for byte in packet]
    return [*content, {"data": 0, "end": 1, "error": 0}]
