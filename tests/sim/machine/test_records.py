"""Records of ports: packed, taken apart, and the first of a SEND read."""

import numpy as np
import pytest

from sim.machine.ports import RECORDS, ROUTES, Port, is_output, payload_bytes, record_bytes
from sim.machine.presets import preset_of
from sim.machine.records import pack_records, sent_fields, unpack_records

PRESET = preset_of("tiny")


@pytest.mark.parametrize("port", RECORDS)
def test_fields_survive_packing(port: Port) -> None:
    """Every field, over its whole range."""
    rng = np.random.default_rng(1)
    fields = {}
    for field in RECORDS[port]:
        low = -(1 << (field.bits - 1)) if field.signed else 0
        high = min(1 << (field.bits - field.signed), (1 << 63) - 1)
        fields[field.name] = rng.integers(low, high, 50)
    packed = pack_records(port, PRESET, fields)
    data = np.frombuffer(packed, np.uint8).reshape(50, payload_bytes(port, PRESET))
    for name, values in unpack_records(port, data).items():
        np.testing.assert_array_equal(values, fields[name], name)
    sent = sent_fields(port, packed[: record_bytes(port)])
    assert sent == {name: int(values[0]) for name, values in fields.items()}


def test_bits_beyond_a_field_leave_the_next_alone() -> None:
    """A value that is too large is cut off."""
    fields = {field.name: 0 for field in RECORDS[Port.ARRAY_COMMAND]}
    packed = pack_records(Port.ARRAY_COMMAND, PRESET, fields | {"phase": 4 + 2, "codebook": 64 + 1})
    sent = sent_fields(Port.ARRAY_COMMAND, packed)
    assert {name: value for name, value in sent.items() if value} == {"phase": 2, "codebook": 1}


def test_routes_lead_from_outputs_to_inputs_whose_payloads_are_beats() -> None:
    """What the mover relies on."""
    for source, target in ROUTES.items():
        assert is_output(source) and not is_output(target)
        assert payload_bytes(target, PRESET) == PRESET.beat_bytes
