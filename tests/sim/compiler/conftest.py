"""The invented encoders as fixtures: made once, tests change nothing of them."""

import pytest

from tests.sim.compiler import networks
from tests.sim.compiler.networks import Toy


@pytest.fixture(scope="session")
def toy_tiny_vit() -> Toy:
    """As networks.toy_tiny_vit."""
    return networks.toy_tiny_vit()


@pytest.fixture(scope="session")
def toy_sam_vit() -> Toy:
    """As networks.toy_sam_vit."""
    return networks.toy_sam_vit()


@pytest.fixture(scope="session", params=["toy_tiny_vit", "toy_sam_vit"])
def toy(request: pytest.FixtureRequest) -> Toy:
    """Each of the two in turn."""
    made: Toy = request.getfixturevalue(request.param)
    return made
