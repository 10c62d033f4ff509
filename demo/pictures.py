"""The pictures of the demo's report."""

import base64
import io
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from sim.picture import Box, overlay

PANEL_PIXELS: Final = 640
CAPTION_PIXELS: Final = 40
FLOAT_COLOUR: Final = (48, 160, 255)
INT4_COLOUR: Final = (40, 210, 90)


def differing_pixels(
    picture: NDArray[np.uint8], float_mask: NDArray[np.bool_], int4_mask: NDArray[np.bool_]
) -> Image.Image:
    """The picture in grey: blue where only the float mask is set, green where only the INT4 mask is."""
    grey = np.repeat(picture.mean(axis=2, keepdims=True) * 0.6, 3, axis=2).astype(np.uint8)
    grey[float_mask & ~int4_mask] = FLOAT_COLOUR
    grey[int4_mask & ~float_mask] = INT4_COLOUR
    return Image.fromarray(grey)


def side_by_side(panels: list[tuple[str, Image.Image]]) -> Image.Image:
    """Captioned panels in a row, each PANEL_PIXELS wide; all panels have the same shape."""
    width, height = panels[0][1].size
    panel_height = round(PANEL_PIXELS * height / width)
    sheet = Image.new("RGB", (PANEL_PIXELS * len(panels), panel_height + CAPTION_PIXELS), (24, 26, 30))
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=20)
    for column, (caption, panel) in enumerate(panels):
        sheet.paste(panel.resize((PANEL_PIXELS, panel_height)), (column * PANEL_PIXELS, CAPTION_PIXELS))
        draw.text((column * PANEL_PIXELS + 12, 8), caption, fill=(235, 235, 235), font=font)
    return sheet


def float_vs_int4(
    picture: NDArray[np.uint8], box: Box, float_mask: NDArray[np.bool_], int4_mask: NDArray[np.bool_]
) -> Image.Image:
    """Float mask, INT4 mask and where they differ, in a row."""
    return side_by_side(
        [
            (f"float32: {int(float_mask.sum()):,} pixels", overlay(picture, float_mask, box, FLOAT_COLOUR)),
            (f"INT4: {int(int4_mask.sum()):,} pixels", overlay(picture, int4_mask, box, INT4_COLOUR)),
            (
                f"differing: {int((float_mask ^ int4_mask).sum()):,} pixels",
                differing_pixels(picture, float_mask, int4_mask),
            ),
        ]
    )


def data_uri(image: Image.Image) -> str:
    """The picture as a PNG inside a `data:` address, for a page without other files."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
