"""Hook of the documentation: equations become MathML, which browsers draw themselves, so that no script is loaded."""

from __future__ import annotations

import html
import re
from typing import Any

from latex2mathml.converter import convert

INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
BLOCK = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.DOTALL)


def on_page_content(text: str, **_: Any) -> str:
    """The page with every equation that `pymdownx.arithmatex` has marked as MathML."""
    text = BLOCK.sub(lambda found: convert(html.unescape(found[1].strip()), display="block"), text)
    return INLINE.sub(lambda found: convert(html.unescape(found[1].strip())), text)
