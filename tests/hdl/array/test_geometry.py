# amaranth: UnusedElaboratable=no

"""ArrayGeometry: what is refused, and what the refusal says."""

import pytest

from hdl.array.geometry import PRESETS, ArrayGeometry


@pytest.mark.parametrize(
    ("changes", "name", "nearest"),
    [
        ({"rows": 48}, "rows", 32),
        ({"rows": 128}, "rows", 64),
        ({"columns": 3}, "columns", 4),
        ({"columns": 40}, "columns", 32),
        ({"columns": 10}, "columns", 8),
        ({"columns": 32, "column_group": 2}, "columns", 16),
        ({"loader_rows": 5}, "loader_rows", 4),
        ({"loader_rows": 0}, "loader_rows", 1),
        ({"loader_rows": 64}, "loader_rows", 32),
        ({"table_bits": 7}, "table_bits", 8),
        ({"token_depth": 513}, "token_depth", 512),
        ({"token_depth": 0}, "token_depth", 1),
        ({"codebooks": 33}, "codebooks", 32),
        ({"column_group": 0}, "column_group", 1),
    ],
)
def test_refused_with_the_nearest_valid_value(changes: dict[str, int], name: str, nearest: int) -> None:
    with pytest.raises(ValueError, match=rf"^{name}=.*nearest valid value: {nearest}$"):
        ArrayGeometry(**({"rows": 32, "columns": 8, "loader_rows": 8} | changes))


def test_presets() -> None:
    assert PRESETS["full"].macs == 2048
    assert PRESETS["full"].passes == 1
    assert [PRESETS[name].macs for name in ("tiny", "small")] == [64, 256]
    small = PRESETS["small"]
    assert (small.row_groups, small.column_groups, small.passes, small.sum_bits) == (2, 2, 2, 13)
