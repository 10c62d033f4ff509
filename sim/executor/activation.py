"""The activation unit."""

from typing import Final

import numpy as np

from sim.contract.activation_table import TABLE_ENTRIES, ActivationTable
from sim.contract.wide import Wide
from sim.executor.payloads import wide, wide_bytes
from sim.executor.unit import Batch, Output, check
from sim.machine.ports import Port
from sim.machine.records import unpack_records


class ActivationUnit:
    """hdl.vector.activation: samples in ascending order, a setting behind them, then values."""

    inputs: Final = frozenset({Port.ACTIVATION_TABLE, Port.ACTIVATION_SETTING, Port.ACTIVATION_VALUES})

    def __init__(self) -> None:
        self._samples = np.zeros(TABLE_ENTRIES, np.int16)
        self._due = 0
        self._table: ActivationTable | None = None

    def take(self, batch: Batch) -> list[Output]:
        """Samples, a setting, or values."""
        if batch.port == Port.ACTIVATION_VALUES:
            check(self._table is not None, "ACTIVATION_VALUES come before the ACTIVATION_SETTING of their table")
            assert self._table is not None
            return [(Port.ACTIVATED, wide_bytes(self._table.run(Wide(wide(batch.data), 0)).values))]
        fields = unpack_records(batch.port, batch.data)
        if batch.port == Port.ACTIVATION_SETTING:
            check(self._due in (0, TABLE_ENTRIES), f"ACTIVATION_SETTING comes after {self._due} samples of a table")
            self._due = 0
            bits = int(fields["segment_bits"][-1])
            self._table = ActivationTable("ACTIVATION_SETTING", 0, 0, self._samples.copy(), bits)
            return []
        # A rise is stored with its upper sample, right behind the lower one.
        address = fields["address"]
        in_order = np.array_equal(address, np.arange(self._due, self._due + len(address)))
        check(in_order and address.max() < TABLE_ENTRIES, f"samples of a table come as 0..{TABLE_ENTRIES - 1} in order")
        self._samples[address] = fields["sample"]
        self._due += len(address)
        self._table = None
        return []

    def left(self) -> str:
        """Nothing ever stays."""
        return ""
