"""Data files that installed packages carry: found through package metadata, nothing is imported or downloaded."""

from importlib import metadata
from pathlib import Path
from typing import Final

from sim.contract.errors import UserError
from sim.picture import Box

RETINA_BOX: Final[Box] = (138, 528, 358, 768)
"""The optic disc in the retina picture of scikit-image, in pixels."""


def package_file(distribution: str, relative: str) -> Path:
    """Path of the file `relative` (as in the wheel) of an installed distribution.

    Raises UserError when the distribution or the file is missing.
    """
    try:
        path = Path(str(metadata.distribution(distribution).locate_file(relative)))
    except metadata.PackageNotFoundError as error:
        raise UserError(f"the package {distribution} is not installed; run `make setup`") from error
    if not path.is_file():
        raise UserError(f"the package {distribution} lacks {relative}; run `make setup` to get the tested version")
    return path


def retina_picture() -> Path:
    """The fundus photograph that scikit-image carries (1411 x 1411 pixels)."""
    return package_file("scikit-image", "skimage/data/retina.jpg")
