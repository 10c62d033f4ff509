"""The residual unit."""

from typing import Final

import numpy as np

from sim.contract.residual import Residual
from sim.contract.wide import Wide
from sim.executor.payloads import wide, wide_bytes
from sim.executor.unit import Batch, Output, check
from sim.machine.ports import Port
from sim.machine.presets import MachinePreset
from sim.machine.records import unpack_records
from sim.machine.settings import DISTANCE_MAX


class ResidualUnit:
    """hdl.vector.residual; beats of the first and the second operand come in turn."""

    inputs: Final = frozenset({Port.RESIDUAL_SETTING, Port.RESIDUAL_VALUES})

    def __init__(self, preset: MachinePreset) -> None:
        self._residual: Residual | None = None
        self._first = np.zeros((0, preset.lanes), np.int16)

    def take(self, batch: Batch) -> list[Output]:
        """A setting, or beats."""
        if batch.port == Port.RESIDUAL_SETTING:
            check(not len(self._first), "RESIDUAL_SETTING comes between the beats of two operands")
            fields = unpack_records(batch.port, batch.data)
            first, second = (
                int(fields["first"][-1]) - DISTANCE_MAX,
                int(fields["second"][-1]) - DISTANCE_MAX,
            )
            self._residual = Residual("RESIDUAL_SETTING", first, second, 0)
            return []
        check(self._residual is not None, "RESIDUAL_VALUES come before RESIDUAL_SETTING")
        assert self._residual is not None
        values = np.concatenate([self._first, wide(batch.data)])
        pairs = len(values) // 2
        self._first = values[2 * pairs :]
        operand_first = Wide(values[0 : 2 * pairs : 2], self._residual.first_exponent)
        operand_second = Wide(values[1 : 2 * pairs : 2], self._residual.second_exponent)
        return [(Port.SUMS, wide_bytes(self._residual.run(operand_first, operand_second).values))]

    def left(self) -> str:
        """A first operand without its second."""
        return "a beat of a first operand without its second" if len(self._first) else ""
