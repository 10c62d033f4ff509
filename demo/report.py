"""The self-contained HTML page of the demo."""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from string import Template
from typing import Final

Row = tuple[str, str, str]
"""What was measured, the figure, the command or condition it comes from."""


@dataclass(frozen=True)
class Section:
    """A heading, an optional picture (a `data:` address) with its caption, and rows of figures."""

    title: str
    rows: Sequence[Row] = ()
    picture: str = ""
    caption: str = ""


PAGE: Final = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>$title</title><style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #1d2126; }
h1 { margin-bottom: 0; } h2 { margin-top: 2em; border-bottom: 1px solid #ccd; }
p.lead { color: #555; margin-top: .3em; }
figure { margin: 1em 0; } img { max-width: 100%; border-radius: 6px; } figcaption { color: #555; font-size: .9em; }
table { border-collapse: collapse; width: 100%; } td { padding: .35em .8em .35em 0; border-bottom: 1px solid #e4e6ea;
vertical-align: top; } td:nth-child(2) { font-weight: 600; white-space: nowrap; } td:nth-child(3) { color: #667;
font-size: .85em; font-family: ui-monospace, monospace; }
</style></head><body><h1>$title</h1><p class="lead">$lead</p>
$body
</body></html>
""")


def _section(section: Section) -> str:
    parts = [f"<h2>{html.escape(section.title)}</h2>"]
    if section.picture:
        caption = html.escape(section.caption)
        parts.append(
            f'<figure><img src="{section.picture}" alt="{caption}"><figcaption>{caption}</figcaption></figure>'
        )
    if section.rows:
        cells = ("".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in section.rows)
        parts.append("<table>" + "\n".join(f"<tr>{row}</tr>" for row in cells) + "</table>")
    return "\n".join(parts)


def render(title: str, lead: str, sections: Sequence[Section]) -> str:
    """The page as text; everything but the pictures' addresses is escaped."""
    body = "\n".join(_section(section) for section in sections)
    return PAGE.substitute(title=html.escape(title), lead=html.escape(lead), body=body)
