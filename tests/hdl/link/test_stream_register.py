# amaranth: UnusedElaboratable=no
from collections.abc import Callable
from typing import Any

import pytest

from hdl.link.receive_buffer import ReceiveBuffer
from hdl.link.token import StreamRegister


@pytest.mark.parametrize("seed", [None, 12])
def test_register_keeps_every_payload_in_order(drive: Callable[..., Any], seed: int | None) -> None:
    payloads = list(range(1, 60))
    assert drive(StreamRegister(8), payloads, seed=seed) == StreamRegister.model(payloads)


@pytest.mark.parametrize("seed", [None, 13])
def test_receive_buffer_keeps_every_byte_in_order(drive: Callable[..., Any], seed: int | None) -> None:
    received = [(byte, int(byte % 7 == 0)) for byte in range(150)]
    outputs = drive(ReceiveBuffer(depth=16), [{"data": data, "error": error} for data, error in received], seed=seed)
    assert [(byte.data, byte.error) for byte in outputs] == ReceiveBuffer.model(received)
