import numpy as np
import pytest

from sim.contract.codebook import affine_codebook, check_levels, high_plane_codebook, low_plane_codebook
from sim.contract.errors import UserError


def test_affine_codebook_is_code_minus_eight() -> None:
    assert affine_codebook().tolist() == list(range(-8, 8))


def test_the_two_planes_together_are_every_signed_byte() -> None:
    code = np.arange(256)
    level = 16 * high_plane_codebook()[code >> 4].astype(int) + low_plane_codebook()[code & 15]
    assert level.tolist() == list(range(-128, 128))


def test_any_sixteen_integers_within_15_are_a_codebook() -> None:
    levels = [15, -15, 0, 0, *range(12)]
    assert check_levels(levels).tolist() == levels


@pytest.mark.parametrize("levels", [list(range(15)), [0.5] * 16, [16, *range(15)], [-16, *range(15)]])
def test_what_is_no_codebook_is_refused_by_name(levels: list[float]) -> None:
    with pytest.raises(UserError, match="codebook post_gelu"):
        check_levels(np.array(levels), "codebook post_gelu")
