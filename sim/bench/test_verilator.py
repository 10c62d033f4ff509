"""The bench itself, on a component small enough to compile in seconds."""

import multiprocessing
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from amaranth.hdl import Module, Signal, signed, unsigned
from amaranth.lib import data, stream
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Component, In, Out

from sim.bench import verilator
from sim.bench.packing import pack, payload_bytes, unpack
from sim.bench.player import BackPressure, Episode, EpisodeResult, Flip, play
from sim.bench.verilator import BenchError, VerilatedModel, compile_model, run_cocotb, verilog_of
from sim.contract.errors import UserError

LANES = data.ArrayLayout(data.ArrayLayout(5, 3), 7)
DEPTH = 16
VISIBLE = [("keeper", "memory")]


class Keeper(Component):
    """Sends payload n plus what memory word n % 16 holds (0 until somebody changes it); one register of delay.

    `hasty` breaks the stream rules: the output register is overwritten while it waits.
    """

    def __init__(self) -> None:
        ports = {"i": In(stream.Signature(LANES)), "o": Out(stream.Signature(LANES))}
        super().__init__({**ports, "o_idle": Out(1), "hasty": In(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.memory = memory = Memory(shape=unsigned(105), depth=DEPTH, init=[])
        port = memory.read_port(domain="comb")
        count = Signal(range(DEPTH))
        write = memory.write_port()
        m.d.comb += [port.addr.eq(count), write.addr.eq(count), write.data.eq(0), write.en.eq(0)]
        m.d.comb += [self.i.ready.eq(self.hasty | ~self.o.valid | self.o.ready), self.o_idle.eq(~self.o.valid)]
        with m.If(self.i.ready):
            m.d.sync += [self.o.valid.eq(self.i.valid), count.eq(count + self.i.valid)]
            m.d.sync += self.o.payload.eq(self.i.payload.as_value() + port.data)
        return m


@pytest.fixture(scope="module")
def keeper() -> VerilatedModel:
    return compile_model(verilog_of(Keeper(), "keeper"), "keeper", visible=VISIBLE)


def _values(count: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 32, (count, 7, 3))


def _play(
    model: VerilatedModel, values: np.ndarray, back_pressure: BackPressure, *, seed: int = 0, flips: Sequence[Flip] = ()
) -> EpisodeResult:
    episode = Episode({"i": pack(LANES, values)}, {"o": (len(values), payload_bytes(LANES))}, flips)
    return play(model, [episode], idle="o_idle", back_pressure=back_pressure, seed=seed)[0]


def test_pack_places_the_first_element_in_the_lowest_bits_and_unpack_reverses_it() -> None:
    layout = data.StructLayout({"low": 3, "high": data.ArrayLayout(2, 2)})
    assert pack(layout, {"low": [5], "high": [[1, 2]]}).tolist() == [[5 | 1 << 3 | 2 << 5]]
    values = np.random.default_rng(0).integers(-8, 8, (9, 5))
    weights = data.ArrayLayout(signed(4), 5)
    assert np.array_equal(unpack(weights, pack(weights, values)), values)
    nothing = np.zeros((0, 5), np.int64)
    assert pack(weights, nothing).shape == (0, payload_bytes(weights))
    assert unpack(weights, pack(weights, nothing)).shape == (0, 5)
    with pytest.raises(ValueError, match="do not fit"):
        pack(weights, values + 8)
    with pytest.raises(ValueError, match="5 elements"):
        pack(weights, values[:, :4])
    with pytest.raises(ValueError, match="low"):
        pack(layout, {"low": [5]})


def test_values_pass_in_order_at_one_a_cycle(keeper: VerilatedModel) -> None:
    values = _values(300)
    result = _play(keeper, values, BackPressure())
    assert np.array_equal(unpack(LANES, result.payloads["o"]), values)
    assert result.transfer_cycles["i"].tolist() == list(range(1, 301))
    assert result.transfer_cycles["o"].tolist() == list(range(2, 302))
    assert result.cycles == 302


@pytest.mark.parametrize("seed", [1, 2])
def test_back_pressure_costs_cycles_and_changes_no_value(keeper: VerilatedModel, seed: int) -> None:
    values = _values(300)
    result = _play(keeper, values, BackPressure(gap=0.3, stall=0.4), seed=seed)
    again = _play(keeper, values, BackPressure(gap=0.3, stall=0.4), seed=seed)
    assert np.array_equal(unpack(LANES, result.payloads["o"]), values)
    assert result.cycles > 400
    assert result.cycles == again.cycles


def test_a_flipped_memory_bit_arrives_where_it_was_set(keeper: VerilatedModel) -> None:
    values = _values(40) // 2
    flip = Flip("memory", mask=1, word=3, after="i", transfers=16)
    difference = unpack(LANES, _play(keeper, values, BackPressure(), flips=[flip]).payloads["o"]) - values
    assert np.argwhere(difference).tolist() == [[19, 0, 0], [35, 0, 0]]


def test_a_flip_that_never_happens_is_a_failure(keeper: VerilatedModel) -> None:
    with pytest.raises(BenchError, match="never set off"):
        _play(keeper, _values(4), BackPressure(), flips=[Flip("memory", mask=1, word=3, after="i", transfers=99)])


def test_an_unstable_payload_is_caught(keeper: VerilatedModel) -> None:
    hasty = Flip("hasty", mask=1, after="i", transfers=1)
    with pytest.raises(BenchError, match="payload changed in cycle"):
        _play(keeper, _values(50), BackPressure(stall=0.5), flips=[hasty])


def test_a_missing_and_a_surplus_payload_are_caught(keeper: VerilatedModel) -> None:
    sent = pack(LANES, _values(5))
    with pytest.raises(BenchError, match="no transfer for 50 cycles; waiting: o after 5"):
        play(keeper, [Episode({"i": sent}, {"o": (6, sent.shape[1])})], stuck_after=50)
    with pytest.raises(BenchError, match="more than the 4 expected"):
        play(keeper, [Episode({"i": sent}, {"o": (4, sent.shape[1])})])


def test_a_second_compilation_comes_from_the_cache(keeper: VerilatedModel) -> None:
    again = compile_model(verilog_of(Keeper(), "keeper"), "keeper", visible=VISIBLE)
    assert (again.folder, again.compile_seconds) == (keeper.folder, 0.0)


def _compile_in(folder: Path) -> None:
    """compile_model with a compiler that takes a second and leaves a line per call."""

    def slow_compiler(source: str, top: str, control: str, scratch: Path) -> Path:
        with (folder / "calls").open("a") as calls:
            calls.write("compiled\n")
        time.sleep(1)
        whole = scratch / "whole"
        whole.mkdir()
        (whole / top).write_text("binary")
        return whole

    verilator._compile = slow_compiler
    model = compile_model("module late; endmodule", "late", cache_folder=folder)
    assert (model.folder / "late").read_text() == "binary"


def test_processes_that_want_one_model_compile_it_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_compile_in, args=(tmp_path,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert (tmp_path / "calls").read_text() == "compiled\n"
    assert sorted(path.suffix for path in tmp_path.iterdir() if path.name != "calls") == ["", ".lock"]


def test_a_failed_compilation_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaking_compiler(_source: str, _top: str, _control: str, scratch: Path) -> Path:
        (scratch / "half").write_text("a half-written model")
        raise BenchError("out of memory")

    with monkeypatch.context() as patched, pytest.raises(BenchError, match="out of memory"):
        patched.setattr(verilator, "_compile", breaking_compiler)
        compile_model("module late; endmodule", "late", cache_folder=tmp_path)
    process = multiprocessing.get_context("spawn").Process(target=_compile_in, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == 0


def test_broken_verilog_shows_the_end_of_the_log_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"(?s)compiling broken: ended with status.*syntax error"):
        compile_model("module broken(input clk; endmodule", "broken", cache_folder=tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


def test_a_module_that_does_not_import_fails_the_run(keeper: VerilatedModel, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="no_such_module"):
        run_cocotb(keeper, "no_such_module", tmp_path, {})


def test_a_module_without_tests_fails_the_run(keeper: VerilatedModel, tmp_path: Path) -> None:
    (tmp_path / "without_tests.py").write_text("")
    with pytest.raises(BenchError, match="simulating keeper"):
        run_cocotb(keeper, "without_tests", tmp_path, {"PYTHONPATH": str(tmp_path)})


def test_a_simulator_that_dies_fails_the_run(keeper: VerilatedModel, tmp_path: Path) -> None:
    text = "import os, cocotb\n@cocotb.test()\nasync def dies(dut):\n    os._exit(0)\n"
    (tmp_path / "dying.py").write_text(text)
    packages = os.pathsep.join((str(tmp_path), str(Path(verilator.__file__).parents[2])))
    with pytest.raises(BenchError, match="ended without results"):
        run_cocotb(keeper, "dying", tmp_path, {"PYTHONPATH": packages})


def test_a_simulation_that_hangs_is_ended(keeper: VerilatedModel, tmp_path: Path) -> None:
    text = "import time, cocotb\n@cocotb.test()\nasync def hangs(dut):\n    time.sleep(600)\n"
    (tmp_path / "hanging.py").write_text(text)
    packages = os.pathsep.join((str(tmp_path), str(Path(verilator.__file__).parents[2])))
    with pytest.raises(BenchError, match="not done after 4 s"):
        run_cocotb(keeper, "hanging", tmp_path, {"PYTHONPATH": packages}, limit_s=4)


@pytest.mark.parametrize("missing", ["g++", "make", "perl"])
def test_a_missing_tool_is_named(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda tool: None if tool == missing else which(tool))
    with pytest.raises(UserError, match=f"`{missing.replace('+', '.')}` is not on PATH"):
        verilator.tool_versions.__wrapped__()


def test_back_pressure_must_be_a_probability() -> None:
    with pytest.raises(ValueError, match=r"gap = 1.5 .* nearest valid value is 0.95"):
        BackPressure(gap=1.5)
