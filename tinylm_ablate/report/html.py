"""Blocks as HTML: one self-contained page that works offline.

Figures are embedded as SVG, with a text for readers who cannot see them; on request, the same description becomes
interactive. The template escapes all users' texts; paths in records are never read.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from tinylm_ablate.files import write_atomic
from tinylm_ablate.paths import user_cache
from tinylm_ablate.report.blocks import Block, Figure, Heading, pieces, walk
from tinylm_ablate.report.drawing import svg

_TEMPLATES = Path(__file__).parent / "templates"


def document(title: str, sections: Sequence[Mapping[str, Any]], explore: Mapping[str, Any] | None = None) -> str:
    """Return the whole page.

    Args:
        title: Its title.
        sections: Mappings with "anchor", "title", "blocks", "group" (its heading in the contents, or "") and "open" (whether
            it is expanded).
        explore: Data of the explorer (see ``explore.payload``); None omits it.
    """
    specs: dict[str, Any] = {
        block.name: block.spec for section in sections for block in walk(section["blocks"]) if isinstance(block, Figure)
    }
    context = {
        "title": title,
        "sections": sections,
        "style": Markup(_text("report.css")),
        "script": Markup(_text("report.js")),
        "explore_script": Markup(_text("explore.js")),
        "explore": None if explore is None else _data(explore),
        "specs": _data(specs),
        "bundle": Markup(_bundle() if specs else ""),
    }
    return _environment().get_template("page.html.j2").render(context)


def render(blocks: Sequence[Block], deeper: int = 0) -> str:
    """Return blocks as HTML, with headings ``deeper`` levels lower."""
    module: Any = _environment().get_template("blocks.html.j2").module
    return str(module.render(blocks, deeper))


def slug(text: str) -> str:
    """Return an anchor for a text."""
    return re.sub(r"[^\w.-]+", "-", text).strip("-") or "section"


def picture(figure: Figure, narrow: bool = False) -> Markup:
    """Return a figure as SVG for the page, with unique identifiers, since a page has many figures."""
    drawn = svg(figure.narrow) if narrow and figure.narrow is not None else figure.drawn
    name = slug(f"{figure.name}-narrow" if narrow else figure.name)
    drawn = re.sub(r'(\bid="|url\(#|href="#)((?:clip|gradient)[\w-]*)', rf"\1{name}-\2", drawn)
    label = Markup.escape(figure.alt)
    return Markup(re.sub(r"<svg ", f'<svg role="img" aria-label="{label}" ', drawn, count=1))


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True, undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters |= {"pieces": pieces, "kind": lambda block: type(block).__name__, "picture": picture, "slug": slug}
    environment.tests["span"] = lambda piece: not isinstance(piece, str)
    environment.tests["heading"] = lambda block: isinstance(block, Heading)
    return environment


def _data(value: Any) -> Markup:
    """Return data for a script element: JSON that cannot contain a closing tag."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


def _text(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")


@functools.cache
def _bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed (BSD licenses), as text until a figure becomes interactive."""
    import vl_convert

    kept = user_cache() / f"vega-{version('vl-convert-python')}.js"  # bundling takes seconds
    with contextlib.suppress(OSError):
        return kept.read_text(encoding="utf-8")
    bundle: str = vl_convert.javascript_bundle()  # type: ignore[call-arg]  # the stub has no default
    bundle = bundle.replace("</", "<\\/").replace("<!--", "<\\!--")
    with contextlib.suppress(OSError):
        kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(kept, bundle)
    return bundle
