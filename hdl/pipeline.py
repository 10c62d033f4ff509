"""Register chains."""

from typing import Any

from amaranth.hdl import Module, Signal


def chain(m: Module, value: Any, hops: int, name: str, *, reset_less: bool = True) -> list[Any]:
    """[value, value 1 cycle later, ..., value `hops` cycles later]: one register per hop.

    `value`: a Signal or a view. Payload registers keep no reset (fewer reset loads to route); pass
    reset_less=False for bits that must start at 0.
    """
    stages = [value]
    for hop in range(1, hops + 1):
        stage = Signal(value.shape(), name=f"{name}_{hop}", reset_less=reset_less)
        m.d.sync += stage.eq(stages[-1])
        stages.append(stage)
    return stages


def delay(m: Module, value: Any, cycles: int, name: str, *, reset_less: bool = True) -> Any:
    """`value` (a Signal or a view) `cycles` cycles later; 0 cycles later it is `value` itself."""
    return chain(m, value, cycles, name, reset_less=reset_less)[cycles]
