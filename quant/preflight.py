"""What a command refuses or announces before minutes are spent: places, seeds, the user's own pictures."""

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Final

from quant.calibration_pictures import check_pictures
from quant.pictures import CALIBRATION_BOXES, PromptedPicture, pictures_of_folder
from sim.contract.errors import UserError
from sim.contract.folder import MANIFEST_FILE

LARGEST_SEED: Final = 2**32 - 1


def check_place(out: Path) -> None:
    """Refuse a place that cannot be written before minutes are spent. Raises UserError."""
    parent = out.absolute().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}; choose a writable place") from error
    if not os.access(parent, os.W_OK):
        raise UserError(f"cannot write {out}: {parent} is not writable; choose a writable place")


def check_model_place(out: Path) -> None:
    """`check_place`, and refuse to replace what is no model folder. Raises UserError."""
    check_place(out)
    if out.exists() and not (out / MANIFEST_FILE).is_file() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out} exists and is not a model folder; name another --out or move it away")


def check_files(*paths: Path | None) -> None:
    """Refuse files that cannot be written before minutes are spent. Raises UserError."""
    for path in paths:
        if path is not None:
            check_place(path)
            if path.is_dir():
                raise UserError(f"cannot write {path}: it is a folder; name a file")


def check_seed(seed: int, option: str) -> None:
    """Refuse a seed that some generator does not take. Raises UserError."""
    if not 0 <= seed <= LARGEST_SEED:
        raise UserError(f"{option} {seed} is out of range; give 0 to {LARGEST_SEED}")


def few_boxes(picture: PromptedPicture) -> PromptedPicture:
    """At most CALIBRATION_BOXES of a picture's boxes, in even steps.

    All boxes of a picture go through the mask decoder together, each with a map of its own: hundreds would need
    gigabytes and say little more.
    """
    count = len(picture.boxes)
    kept = [index * count // CALIBRATION_BOXES for index in range(CALIBRATION_BOXES)]
    if count <= CALIBRATION_BOXES:
        return picture
    truth = tuple(picture.truth[index] for index in kept) if picture.truth else ()
    return replace(picture, boxes=tuple(picture.boxes[index] for index in kept), truth=truth)


def own_pictures(folder: Path) -> tuple[list[PromptedPicture], list[str]]:
    """Pictures of a folder to calibrate on, with the boxes that are used, and warnings; both are told on stderr.

    Raises UserError for what is wrong with the folder.
    """
    found = pictures_of_folder(folder)
    pictures = [few_boxes(picture) for picture in found]
    used, given = (sum(len(picture.boxes) for picture in some) for some in (pictures, found))
    print(f"calibrates on {len(pictures)} pictures of {folder} with {used} of their {given} boxes", file=sys.stderr)
    warnings = check_pictures(pictures)
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return pictures, warnings
