"""`python -m demo`: from the float checkpoint to a mask, a checked RTL layer and a bitstream."""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from demo.page import write_page
from sim.assets import RETINA_BOX, retina_picture
from sim.contract.errors import UserError

EXAMPLE = """example:
  python -m demo --out out/demo --preset tiny

Steps: quantize LiteMedSAM to INT4, segment the optic disc of a retina picture with the golden integer model,
run one real layer of it through the RTL and compare every bit, build the ULX3S bitstream, write report.html.
"""


class Background:
    """A command that runs beside the other steps, its output in a log file."""

    def __init__(self, command: list[str], log: Path):
        self.command, self.log = command, log
        self._process = subprocess.Popen(command, stdout=log.open("w"), stderr=subprocess.STDOUT)

    def last_line(self) -> str:
        lines = [line.strip() for line in self.log.read_text(errors="replace").replace("\r", "\n").splitlines()]
        return next((line for line in reversed(lines) if line), "")

    def wait(self) -> None:
        """Show the last line of the log until the command ends. Raises UserError when it failed."""
        with tqdm(bar_format="{desc} [{elapsed}]", leave=False) as bar:
            while self._process.poll() is None:
                bar.set_description_str(self.last_line()[:90])
                time.sleep(0.5)
        if self._process.returncode:
            raise UserError(f"`{shown(self.command)}` failed: {self.last_line()} (whole log: {self.log})")

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            self._process.wait()


def shown(command: list[str]) -> str:
    """A command as a reader would type it."""
    return " ".join("python" if part == sys.executable else part for part in command)


def run(command: list[str]) -> None:
    """Run a step in the foreground. Raises UserError when it failed; its own error line stands above."""
    print(f"  $ {shown(command)}", flush=True)
    status = subprocess.run(command, check=False).returncode
    if status:
        raise UserError(f"`{shown(command)}` ended with status {status}; its message is above")


def module(name: str, *arguments: object) -> list[str]:
    return [sys.executable, "-m", name, *map(str, arguments)]


def read(path: Path) -> dict[str, Any]:
    figures: dict[str, Any] = json.loads(path.read_text())
    return figures


def demo(out: Path, preset: str, seed: int) -> Path:
    """Run every step and write the report; returns the path of report.html."""
    out.mkdir(parents=True, exist_ok=True)
    picture, box = retina_picture(), ",".join(f"{value:g}" for value in RETINA_BOX)
    model = out / "model"
    print("[1/5] bitstream: started in the background", flush=True)
    bitstream = Background(
        module("boards.ulx3s", "build", "--preset", preset, "--seed", seed, "--json", out / "bitstream.json"),
        out / "bitstream.log",
    )
    try:
        print("[2/5] quantize the default model to INT4", flush=True)
        run(module("quant", "quantize", "--model", "lite_medsam", "--bits", 4, "--seed", seed, "--out", model))
        print("[3/5] segment the optic disc with the golden integer model", flush=True)
        segment = module("sim", "segment", model, "--image", picture, "--box", box)
        run([*segment, "--out", str(out / "int4_mask.png"), "--json", str(out / "segment.json")])
        print("[4/5] one real layer through the RTL", flush=True)
        run(module("sim", "check", model, "--seed", seed, "--json", out / "check.json"))
        print(f"[5/5] waiting for the bitstream (log: {bitstream.log})", flush=True)
        bitstream.wait()
    finally:
        bitstream.stop()
    return write_page(
        out,
        model,
        segment=read(out / "segment.json"),
        check=read(out / "check.json"),
        bitstream=read(out / "bitstream.json"),
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m demo",
        description="From a float checkpoint to an INT4 mask, a checked RTL layer and a bitstream.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path("out/demo"), metavar="DIR", help="result folder (out/demo)")
    parser.add_argument("--preset", default="tiny", help="board preset, see `python -m boards.ulx3s presets` (tiny)")
    parser.add_argument("--seed", type=int, default=1, help="seed of calibration, stimulus and placement (1)")
    arguments = parser.parse_args(argv)
    try:
        page = demo(arguments.out, arguments.preset, arguments.seed)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"\ndone: {page}\n      {page.with_name('mask.png')}\n      {page.with_name('float_vs_int4.png')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
