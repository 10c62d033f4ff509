"""The activity of the simulated matmul array: a compiled model that prints it, and the trace of what it printed."""

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np

from hdl.activity.matmul_parts import matmul_parts
from hdl.activity.state import State
from hdl.activity.traced import Traced
from hdl.array.geometry import ArrayGeometry
from hdl.matmul import Matmul
from sim.bench.matmul_bench import TOP, CompiledMatmul
from sim.bench.verilator import BenchError, compile_model, verilog_of
from sim.trace import TRACE_MHZ, Trace, UnitActivity

_LINE: Final = re.compile(r"activity (\w+) (state|transfers) (\d+) ?(.*)")


def compile_traced_matmul(geometry: ArrayGeometry, *, cache_folder: Path | None = None) -> CompiledMatmul:
    """Compile an array that prints its activity, or take it from the cache; errors: see `compile_model`."""
    array, source = _array_and_verilog(geometry)
    return CompiledMatmul(array, compile_model(source, TOP, cache_folder=cache_folder))


@cache
def _array_and_verilog(geometry: ArrayGeometry) -> tuple[Matmul, str]:
    array = Matmul(geometry)
    return array, verilog_of(Traced(array, matmul_parts), TOP)


def trace_of_log(lines: Iterable[str], *, title: str, mhz: float = TRACE_MHZ) -> Trace:
    """The trace of what hdl.activity.traced printed among other lines.

    It ends when every unit is idle for the last time: at the last change of state of any of them. Raises BenchError
    for a line that is damaged, for a unit whose events were dropped, and when a unit or all activity is missing.
    """
    starts: dict[str, list[int]] = {}
    states: dict[str, list[int]] = {}
    transfers: dict[str, dict[str, list[tuple[int, int]]]] = {}
    for line in lines:
        if "activity " not in line:
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise BenchError(f"a damaged line of activity: {line.strip()!r}")
        unit, kind, cycle, rest = match[1], match[2], int(match[3]), match[4]
        if kind == "state":
            state, dropped = map(int, rest.split())
            if dropped:
                raise BenchError(f"{unit}: {dropped} changes of state were dropped by cycle {cycle}")
            starts.setdefault(unit, []).append(cycle)
            states.setdefault(unit, []).append(state)
            continue
        for item in rest.split():
            stream, count = item.split("=")
            transfers.setdefault(unit, {}).setdefault(stream, []).append((cycle, int(count)))
    cycles = max((each[-1] for each in starts.values()), default=0)
    if cycles == 0:
        raise BenchError("the simulation printed no activity")
    return Trace(
        title,
        cycles,
        mhz,
        {unit: _activity(starts.get(unit, []), states.get(unit, []), transfers[unit], cycles) for unit in transfers},
    )


def _activity(
    starts: list[int], states: list[int], transfers: dict[str, list[tuple[int, int]]], cycles: int
) -> UnitActivity:
    """Idle in front of the first event; nothing from the end of the trace on; counters only where they change."""
    begins = np.array([0, *starts], np.int64)
    kinds = np.array([State.IDLE, *states], np.uint8)
    # The first event may be of cycle 0, the last one may begin where the trace ends: spans of no cycle.
    kept = np.diff(begins, append=cycles) > 0
    counts = {}
    for stream, pairs in transfers.items():
        table = np.array([pair for pair in pairs if pair[0] <= cycles], np.int64).reshape(-1, 2)
        changed = np.diff(table[:, 1], prepend=-1) != 0
        counts[stream] = table[changed]
    return UnitActivity(begins[kept], kinds[kept], counts)
