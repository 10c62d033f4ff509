"""`python -m sim segment`: the mask of a box on a picture, by the golden model or a program of the machine."""

import argparse
import hashlib
import importlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from sim.compiler.program_choice import add_program_options, chosen_program
from sim.compiler.run import ProgramModel
from sim.contract.errors import UserError
from sim.contract.folder import ModelFolder, read_folder
from sim.cycles.memory import MEMORIES
from sim.golden import GoldenModel, Segmentation
from sim.golden.parameters import Executed
from sim.picture import Box, check_box, load_picture, overlay, save_picture
from sim.probes import add_probes, given_probes, probes_of
from sim.record import write_json
from sim.weight_source import add_weight_source, weight_source_of

EXAMPLE = """\
example:
  python -m sim segment build/model --image retina.jpg --box 200,300,600,700 --out mask.png --json mask.json

The box is in pixels of the picture, from the top left corner, X1 and Y1 exclusive.
The mask is an 8-bit grey PNG of the picture's size: 255 inside, 0 outside.
exit status: 0 success, 1 a fault in what was given (one line on stderr), 2 bad use of the command line
"""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the command's parser to the subparsers of `python -m sim`."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "segment",
        description="Segment what a box encloses on a picture, with the integer model.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="DIR", type=Path, help="model folder that `python -m quant quantize` wrote")
    parser.add_argument("--image", metavar="FILE", type=Path, required=True, help="picture to segment (PNG, JPEG, ...)")
    parser.add_argument("--box", metavar="X0,Y0,X1,Y1", required=True, help="box around the object, in pixels")
    parser.add_argument("--out", metavar="PNG", type=Path, required=True, help="where to write the mask")
    parser.add_argument("--overlay", metavar="PNG", type=Path, help="where to write the picture with mask and box")
    parser.add_argument("--json", metavar="FILE", type=Path, help="where to write the figures as JSON")
    parser.add_argument(
        "--backend",
        choices=["golden", "executor", "rtl"],
        default="golden",
        help="what computes the image encoder: golden, the numpy model (default); executor, the machine's program in "
        "numpy; rtl, the program on the simulated hardware",
    )
    machine = parser.add_argument_group("executor and rtl")
    add_program_options(machine)
    machine.add_argument(
        "--memory",
        choices=MEMORIES,
        help="rtl: what is behind the machine's port: onchip, a fixed latency (default); sdram, the controller and a "
        "part",
    )
    add_weight_source(machine, "rtl: ")
    machine.add_argument(
        "--check-layers",
        action="store_true",
        help="executor: run the golden encoder too and compare every step (for rtl: python -m sim layers)",
    )
    add_probes(machine, "rtl: ")
    return parser


def parse_box(text: str) -> Box:
    """`X0,Y0,X1,Y1` as four numbers. Raises UserError when it is not that."""
    try:
        x0, y0, x1, y1 = (float(part) for part in text.split(","))
    except ValueError as error:
        raise UserError(
            f"box {text!r} is not four numbers; give X0,Y0,X1,Y1 in pixels, for example 10,20,110,90"
        ) from error
    return x0, y0, x1, y1


def check_outputs(picture: Path, pngs: Sequence[Path], others: Sequence[Path]) -> None:
    """Raise UserError when an output would overwrite the picture or another output, or a PNG is named otherwise."""
    taken = {picture.resolve(): "the picture to segment"}
    for path in [*pngs, *others]:
        if path.resolve() in taken:
            raise UserError(f"{path} would overwrite {taken[path.resolve()]}; name another file")
        if path.is_dir():
            raise UserError(f"{path} is a folder; name a file in it")
        taken[path.resolve()] = "another output of this run"
    for path in pngs:
        if path.suffix.lower() != ".png":
            raise UserError(f"{path} is written as PNG; give it a name that ends in .png")


def check_backend(arguments: argparse.Namespace) -> None:
    """Raise UserError for options of a program without one, or the other way round."""
    given = [name for name in ("preset", "program") if getattr(arguments, name) is not None]
    if arguments.backend != "golden":
        if not given:
            raise UserError(f"--backend {arguments.backend} needs --preset NAME or --program PROGRAM_DIR")
    elif given:
        raise UserError(f"--{given[0]} is for --backend executor or rtl; add it, or leave the option out")
    if arguments.memory_mb is not None and not given:
        raise UserError("--memory-mb is for --backend executor or rtl; add it, or leave the option out")
    if arguments.memory is not None and arguments.backend != "rtl":
        raise UserError("--memory is for --backend rtl; add it, or leave the option out")
    if weight_source_of(arguments) is not None and arguments.backend != "rtl":
        raise UserError("--weight-source-mb-s is for --backend rtl; add it, or leave the option out")
    if arguments.backend != "rtl" and (probes := given_probes(arguments)):
        raise UserError(
            f"{probes[0]} is for --backend rtl, which has units to look at; add it, or leave the option out"
        )
    if arguments.check_layers and arguments.backend != "executor":
        raise UserError("--check-layers is for --backend executor; for the hardware see `python -m sim layers --help`")
    probes_of(arguments)  # refused before anything takes its time


def _segment_golden(model: GoldenModel, picture: NDArray[np.uint8], box: Box) -> Segmentation:
    encoder = set(model.encoder_layers())
    with tqdm(total=len(encoder), desc="image encoder", unit="operation") as progress:

        def operation_done(name: str, _executed: Executed) -> None:
            if name in encoder:
                progress.update()

        return model.segment(picture, box, operation_done)


def _segment_by_program(
    arguments: argparse.Namespace, folder: ModelFolder, model: GoldenModel, picture: NDArray[np.uint8], box: Box
) -> Segmentation:
    program = chosen_program(arguments, folder, model)
    if arguments.backend == "rtl":
        bench = importlib.import_module("sim.bench.machine_layers")
        mb_s = weight_source_of(arguments)
        encode = partial(
            bench.run_machine,
            sdram=arguments.memory == "sdram",
            source=None if mb_s is None else bench.ImageSourceModel(mb_s),
            probes=probes_of(arguments),
        )
        return ProgramModel(model, program, encode=encode).segment(picture, box)
    with tqdm(total=len(program.layers), desc="image encoder", unit="step") as progress:
        machine = ProgramModel(
            model, program, lambda _layer, _result: progress.update(), check_layers=arguments.check_layers
        )
        return machine.segment(picture, box)


def run(arguments: argparse.Namespace) -> int:
    """Run the command. Returns the exit status; raises UserError for what the user can mend."""
    pngs = [path for path in (arguments.out, arguments.overlay) if path is not None]
    others = [path for path in (arguments.json, arguments.trace, arguments.wave) if path is not None]
    check_outputs(arguments.image, pngs, others)
    box = parse_box(arguments.box)
    check_backend(arguments)
    picture = load_picture(arguments.image)
    height, width = picture.shape[:2]
    check_box(box, width, height)
    folder = read_folder(arguments.model)
    model = GoldenModel.from_contents(folder)

    if arguments.backend != "golden":
        result = _segment_by_program(arguments, folder, model, picture, box)
    else:
        result = _segment_golden(model, picture, box)

    grey = result.mask.astype(np.uint8) * np.uint8(255)
    save_picture(Image.fromarray(grey), arguments.out)
    if arguments.overlay is not None:
        save_picture(overlay(picture, result.mask, box), arguments.overlay)
    pixels = int(result.mask.sum())
    seconds = result.encoder_seconds + result.decoder_seconds
    if arguments.json is not None:
        figures = {
            "model": folder.manifest["model"],
            "bits": folder.manifest["bits"],
            "backend": arguments.backend,
            "image": str(arguments.image),
            "image_width": width,
            "image_height": height,
            "box": list(box),
            "pixels": pixels,
            "predicted_iou": result.predicted_iou,
            "seconds": seconds,
            "encoder_seconds": result.encoder_seconds,
            "decoder_seconds": result.decoder_seconds,
            "mask": str(arguments.out),
            "mask_sha256": hashlib.sha256(grey.tobytes()).hexdigest(),
        }
        write_json(arguments.json, figures)
    quality = f"predicted IoU {result.predicted_iou:.3f}"
    print(f"{arguments.out}: {pixels} of {width * height} pixels, {quality}, {seconds:.1f} s")
    return 0
