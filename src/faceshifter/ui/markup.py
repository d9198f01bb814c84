"""HTML of what Gradio has no component for, or one that would change the files."""

import html
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

Shown = tuple[Path, str]
"""A picture and its caption."""


def address(file: Path) -> str:
    """Where the page gets a file from."""
    return f"/gradio_api/file={quote(str(file))}"


def player(file: Path) -> str:
    """A video as it is; Gradio's own component might encode it anew."""
    return f'<video controls playsinline src="{address(file)}"></video>'


def figures(rows: Sequence[tuple[str, Sequence[Shown]]]) -> str:
    """Pictures with captions, in rows that wrap, each below its title if it has one."""
    parts = []
    for title, shown in rows:
        if title:
            parts.append(f"<h4>{html.escape(title)}</h4>")
        cells = [
            f'<figure><img src="{address(file)}" alt="{html.escape(caption)}">'
            f"<figcaption>{html.escape(caption)}</figcaption></figure>"
            for file, caption in shown
        ]
        parts.append(f'<div class="fs-figures">{"".join(cells)}</div>')
    return "".join(parts)


def bar(done: int, total: int, sentence: str) -> str:
    """How far something is."""
    return f'<progress max="{max(total, 1)}" value="{done}"></progress>{say(sentence)}'


def say(sentence: str) -> str:
    """A sentence in the place of a result."""
    return f'<p role="status">{html.escape(sentence)}</p>'
