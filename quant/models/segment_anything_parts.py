"""The prompt encoder and mask decoder classes of the package segment-anything.

Importing that package as a whole runs its predictor and mask generator, which need torchvision. The model
classes do not. Where torchvision is absent or broken, only `segment_anything.modeling` is loaded, and asking
the package for anything else says what is missing.
"""

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any, NoReturn

from sim.contract.errors import UserError

PACKAGE = "segment_anything"


def _load_without_helpers(cause: BaseException) -> None:
    """Register `segment_anything` as a package whose folder is known and whose own code has not been run."""
    for name in [name for name in sys.modules if name == PACKAGE or name.startswith(f"{PACKAGE}.")]:
        del sys.modules[name]
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.submodule_search_locations is None:
        raise UserError("the package segment-anything is not installed; run `pip install segment-anything`") from cause

    def missing(attribute: str) -> NoReturn:
        raise AttributeError(
            f"segment_anything.{attribute} needs torchvision, which does not import here ({cause}); only "
            "segment_anything.modeling is available. Install the torchvision that belongs to your torch to use it"
        )

    package = ModuleType(PACKAGE, "Only the model classes: torchvision does not import.")
    package.__path__ = list(spec.submodule_search_locations)
    package.__spec__ = spec
    package.__dict__["__getattr__"] = missing
    sys.modules[PACKAGE] = package


def load_modeling() -> Any:
    """The module `segment_anything.modeling`, with PromptEncoder, MaskDecoder and TwoWayTransformer.

    Raises UserError when the package is not installed.
    """
    if importlib.util.find_spec(PACKAGE) is None:
        raise UserError("the package segment-anything is not installed; run `pip install segment-anything`")
    try:
        importlib.import_module(PACKAGE)
    except (ImportError, RuntimeError) as error:
        _load_without_helpers(error)
    return importlib.import_module(f"{PACKAGE}.modeling")
