"""Hooks of the documentation: equations become MathML, which needs no script, and figures in tables stay whole."""

from __future__ import annotations

import html
import re
from typing import Any

from latex2mathml.converter import convert

INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
BLOCK = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.DOTALL)
SHORT_CELL = re.compile(r"<td>((?:[^<]|</?code>){1,40})</td>")
SHORT = 26
"""Cells of at most so many letters are not broken into lines."""


def on_page_content(text: str, **_: Any) -> str:
    """The page with every equation that `pymdownx.arithmatex` has marked as MathML."""
    text = BLOCK.sub(lambda found: convert(html.unescape(found[1].strip()), display="block"), text)
    text = INLINE.sub(lambda found: convert(html.unescape(found[1].strip())), text)
    return SHORT_CELL.sub(_short, text)


def _short(cell: re.Match[str]) -> str:
    whole = len(re.sub("<.*?>", "", cell[1])) <= SHORT
    return f'<td class="short">{cell[1]}</td>' if whole else cell[0]
