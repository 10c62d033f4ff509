# amaranth: UnusedElaboratable=no

"""The process of a simulation and the one that started it."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from sim.bench.machine_bench import BINARY, compile_machine
from sim.bench.test_machine_probes import MINI

START: Final = """
from sim.bench.machine_bench import run_program
from sim.bench.test_machine_probes import MINI
from sim.machine.commands import Command, Opcode
from sim.machine.ports import Port

long = (1, 65535, 65535, 1)
copy = [Command(Opcode.WRITE, Port.COPIED, 4096, long), Command(Opcode.READ, Port.COPY, 2048, long)]
program = [*copy, Command(Opcode.WAIT), Command(Opcode.STOP)]
image = b"".join(command.encode() for command in program).ljust(4096, bytes(1))
run_program(MINI, image, 4096, 1 << 60)
"""
"""A run of hours."""


def simulation_of(process: int) -> int | None:
    """The simulation that a process has started."""
    for child in Path(f"/proc/{process}/task/{process}/children").read_text().split():
        if Path(f"/proc/{child}/comm").read_text().strip() == BINARY:
            return int(child)
    return None


def running(process: int) -> bool:
    """False as well for one that has ended and that nobody has asked for its status."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(what: str, condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end, f"{what} did not come"
        time.sleep(0.1)


def test_a_simulation_ends_with_the_process_that_started_it() -> None:
    compile_machine(MINI)
    starter = subprocess.Popen([sys.executable, "-c", START])
    wait_for("a simulation", lambda: simulation_of(starter.pid) is not None)
    simulation = simulation_of(starter.pid)
    assert simulation is not None
    time.sleep(0.5)
    assert running(simulation)
    starter.kill()
    starter.wait()
    wait_for("its end", lambda: not running(simulation))
