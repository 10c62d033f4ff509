"""The float model, loaded once for all tests of the quantizer."""

import pytest

from quant.models.lite_medsam import LiteMedSam
from quant.reference import float_model


@pytest.fixture(scope="session")
def lite_medsam() -> LiteMedSam:
    """The pretrained float model. Tests must not change it."""
    return float_model()
