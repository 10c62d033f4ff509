"""The simulator's side of `player.py`: cocotb loads this module into the simulator's process."""

import ctypes
import json
import os
import random
from pathlib import Path
from typing import Any

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge

from sim.bench.recording import FOLDER_VARIABLE, REQUEST_FILE, result_file, sent_file
from sim.bench.streams import Fault, Sink, Source, exchange

RESET_CYCLES = 4


@cocotb.test()
async def play(dut: Any) -> None:
    """Reset the component, then play every episode of the request."""
    folder = Path(os.environ[FOLDER_VARIABLE])
    request = json.loads((folder / REQUEST_FILE).read_text())
    generator = random.Random(request["seed"])
    dut.rst.value = 1
    Clock(dut.clk, 2, "ns").start()
    for _ in range(RESET_CYCLES):
        await RisingEdge(dut.clk)
    dut.rst.value = 0
    for number in range(len(request["episodes"])):
        await _play_episode(dut, folder, number, request, generator)
    # What the model printed goes to the log before cocotb's next line does, not into the middle of it.
    ctypes.CDLL(None).fflush(None)


async def _play_episode(dut: Any, folder: Path, number: int, request: dict[str, Any], generator: random.Random) -> None:
    episode = request["episodes"][number]
    sources = []
    for port in episode["sources"]:
        rows = np.load(sent_file(folder, number, port))
        payloads = [int.from_bytes(row.tobytes(), "little") for row in rows]
        sources.append(Source(dut, port, payloads, gap=request["gap"], generator=generator))
    sinks = [
        Sink(dut, port, count, stall=request["stall"], generator=generator)
        for port, (count, _) in episode["sinks"].items()
    ]
    all_streams: list[Source | Sink] = [*sources, *sinks]
    streams = {stream.name: stream for stream in all_streams}
    faults = [Fault(dut, streams[flip.pop("after")], **flip) for flip in episode["flips"]]
    cycles = await exchange(
        dut, sources, sinks, idle=request["idle"], stuck_after=request["stuck_after"], faults=faults
    )
    arrays: dict[str, Any] = {"cycles": np.int64(cycles)}
    for stream in streams.values():
        arrays[f"{stream.name}.cycles"] = np.array(stream.cycles, np.int64)
    for sink in sinks:
        width = episode["sinks"][sink.name][1]
        rows = b"".join(payload.to_bytes(width, "little") for payload in sink.payloads)
        arrays[f"{sink.name}.payloads"] = np.frombuffer(rows, np.uint8).reshape(len(sink.payloads), width)
    with result_file(folder, number).open("wb") as file:
        np.savez(file, **arrays)
