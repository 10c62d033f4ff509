"""`python -m quant`: quantize a model to INT4, and evaluate what came out."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from quant.evaluate import evaluate
from quant.pictures import builtin_evaluation, pictures_of_folder
from quant.quantize import QUANTIZED_LAYERS, quantize_to_folder
from sim.contract.errors import UserError
from sim.record import write_json

MODELS = ("lite_medsam",)

QUANTIZE_EXAMPLE = """\
example:
  python -m quant quantize --model lite_medsam --bits 4 --out out/model

Calibrates on pictures that installed packages carry, or on your own:
  --images DIR   NAME.jpg pictures, each with NAME.png beside it: an indexed or grey instance mask, 0 = background.
                 Prompts are the tight boxes of all instances of at least 400 pixels. Eight varied pictures do;
                 more cost time and memory in proportion.
DIR/model.safetensors and DIR/manifest.json appear together, when all is done, or not at all.
"""

EVALUATE_EXAMPLE = """\
example:
  python -m quant evaluate out/model --json out/evaluation.json

INT4 masks come from the golden integer model, never from a float simulation of it. Without --images, prompts
are fixed boxes on pictures that installed packages carry and that calibration does not use.
"""


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m quant", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    formatter = argparse.RawDescriptionHelpFormatter
    quantize = commands.add_parser(
        "quantize",
        help="float checkpoint to INT4 folder",
        epilog=QUANTIZE_EXAMPLE,
        formatter_class=formatter,
        description="Quantize a float model to 4-bit weights and activations.",
    )
    quantize.add_argument("--model", default=MODELS[0], help=f"which model: {', '.join(MODELS)} (%(default)s)")
    quantize.add_argument("--bits", type=int, default=4, help="bits of weights and activations; 4 is what there is")
    quantize.add_argument("--out", type=Path, required=True, metavar="DIR", help="result folder")
    quantize.add_argument("--images", type=Path, metavar="DIR", help="calibrate on these pictures")
    quantize.add_argument("--seed", type=int, default=0, help="of crops and boxes for calibration (%(default)s)")
    quantize.add_argument("--checkpoint", type=Path, metavar="FILE", help="a copy of the checkpoint, hash checked")
    quantize.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    evaluate = commands.add_parser(
        "evaluate",
        help="mask quality of an INT4 folder",
        epilog=EVALUATE_EXAMPLE,
        formatter_class=formatter,
        description="Compare the masks of an exported model with those of the float model.",
    )
    evaluate.add_argument("folder", type=Path, metavar="DIR", help="folder that `quantize` wrote")
    evaluate.add_argument("--images", type=Path, metavar="DIR", help="evaluate on these pictures with masks")
    evaluate.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    return parser


def _bar(total: int, unit: str) -> Any:
    return tqdm(total=total, unit=unit, file=sys.stderr, dynamic_ncols=True)


def _check_place(out: Path) -> None:
    """Refuse a place that cannot be written before minutes are spent. Raises UserError."""
    parent = out.absolute().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}; choose a writable place") from error
    if not os.access(parent, os.W_OK):
        raise UserError(f"cannot write {out}: {parent} is not writable; choose a writable place")


def _quantize(arguments: argparse.Namespace) -> None:
    if arguments.model not in MODELS:
        raise UserError(f"unknown model {arguments.model!r}; there is {', '.join(MODELS)}")
    if arguments.bits != 4:
        raise UserError(f"--bits {arguments.bits} is not supported: the array computes with 4-bit codes; use --bits 4")
    _check_place(arguments.out)
    pictures = None if arguments.images is None else pictures_of_folder(arguments.images)
    with _bar(QUANTIZED_LAYERS, "layer") as bar:

        def progress(name: str) -> None:
            bar.set_postfix_str(name, refresh=False)
            bar.update()

        figures = quantize_to_folder(arguments.out, pictures, arguments.seed, progress, checkpoint=arguments.checkpoint)
    if arguments.json is not None:
        write_json(arguments.json, figures)
    print(f"quantized {figures['layers']} layers of {arguments.model} to 4 bits in {figures['seconds']:.0f} s")
    for file, size in figures["files"].items():
        print(f"  {arguments.out / file}: {size:,} bytes")
    print(f"next: python -m quant evaluate {arguments.out}")


def _evaluate(arguments: argparse.Namespace) -> None:
    pictures = builtin_evaluation() if arguments.images is None else pictures_of_folder(arguments.images)
    with _bar(len(pictures) + 1, "picture") as bar:
        figures = evaluate(arguments.folder, pictures, lambda _: bar.update())
    if arguments.json is not None:
        write_json(arguments.json, figures)
    truth = figures["mean_iou_to_truth"]
    print(f"{figures['n_prompts']} prompts, masks of the golden integer model against the float model:")
    print(f"  IoU to float  mean {figures['mean_iou_to_float']:.4f}  min {figures['min_iou_to_float']:.4f}")
    if truth["int4"] is not None:
        print(f"  IoU to truth  int4 {truth['int4']:.4f}  float {truth['float']:.4f}")
    print(f"  retina        IoU {figures['retina']['iou_to_float']:.4f}  pixels {figures['retina']['pixels']}")
    print(f"  model         {figures['model_bytes']:,} bytes")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command: 0 success, 1 a fault the user can mend (one line on stderr). argparse exits with 2 itself."""
    parsed = build_parser().parse_args(arguments)
    try:
        {"quantize": _quantize, "evaluate": _evaluate}[parsed.command](parsed)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
