"""Programs of the machine in numpy: the commands of sim.machine on an image of its memory, bit for bit the hardware."""

from sim.executor.executor import Executor
from sim.executor.unit import MachineError

__all__ = ["Executor", "MachineError"]
