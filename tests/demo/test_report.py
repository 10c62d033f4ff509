import base64
import io

import numpy as np
from PIL import Image

from demo.pictures import CAPTION_PIXELS, PANEL_PIXELS, data_uri, differing_pixels, float_vs_int4
from demo.report import Section, render


def masks() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    picture = np.full((40, 60, 3), 200, np.uint8)
    float_mask, int4_mask = np.zeros((2, 40, 60), bool)
    float_mask[5:20, 5:20] = True
    int4_mask[5:20, 6:21] = True
    return picture, float_mask, int4_mask


def test_page_is_self_contained_and_escapes_what_it_shows() -> None:
    picture = data_uri(Image.new("RGB", (4, 4)))
    page = render("a < b", "lead & more", [Section("one", [("x", "<1>", "cmd --a 'b'")], picture, "caption")])
    assert "a &lt; b" in page and "&lt;1&gt;" in page and "lead &amp; more" in page
    assert "http" not in page and picture in page


def test_data_uri_holds_the_picture() -> None:
    image = Image.new("RGB", (3, 2), (10, 20, 30))
    content = base64.b64decode(data_uri(image).split(",")[1])
    assert Image.open(io.BytesIO(content)).getpixel((2, 1)) == (10, 20, 30)


def test_differing_pixels_are_coloured_by_who_set_them() -> None:
    picture, float_mask, int4_mask = masks()
    shown = np.asarray(differing_pixels(picture, float_mask, int4_mask)).astype(int)
    assert shown[10, 5, 2] > shown[10, 5, 0]  # float only: blue
    assert shown[10, 20, 1] > shown[10, 20, 2]  # INT4 only: green
    assert len(set(shown[10, 10])) == 1  # both: grey


def test_side_by_side_has_three_panels_and_keeps_the_aspect() -> None:
    sheet = float_vs_int4(masks()[0], (5, 5, 20, 20), *masks()[1:])
    assert sheet.size == (3 * PANEL_PIXELS, PANEL_PIXELS * 40 // 60 + 1 + CAPTION_PIXELS)
