"""Drawing of figures: theme, registry, and charts as Vega-Lite, SVG and PNG.

A figure is a function of a data frame: ``figure(frame, by, measure)`` returns an Altair chart, or None without data. One
description gives the static SVG of a page or a repository, and the interactive figure of a page that works offline. Altair
describes charts, Vega-Lite draws them, and vl-convert includes both in one wheel, so that no browser or network is needed.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from tinylm_ablate.files import write_atomic
from tinylm_ablate.report.measures import by_name, count

if TYPE_CHECKING:
    import altair as alt

Draw = Callable[[pd.DataFrame, Sequence[str], str], "alt.TopLevelMixin | None"]

#: Okabe and Ito's colors, which most people can distinguish, without the yellow that is hard to see on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7F7F7F")

#: The page's colors of verdicts (report.css) on white.
_ON_WHITE = {"good": "#116329", "bad": "#b3202c", "open": "#7a4e00", "none": "#0b5cad", "quiet": "#59636e"}

_FONT = "Liberation Sans, Arial, sans-serif"
_THEME = {
    "background": "transparent",
    "font": _FONT,
    "view": {"stroke": None},
    "axis": {
        "labelColor": "currentColor", "titleColor": "currentColor", "domainColor": "#88888888", "tickColor": "#88888888",
        "gridColor": "#88888833", "labelFontSize": 13, "titleFontSize": 13, "titleFontWeight": "normal", "labelLimit": 220,
    },
    "legend": {"labelColor": "currentColor", "titleColor": "currentColor", "labelFontSize": 12, "titleFontSize": 12,
               "labelLimit": 240, "symbolStrokeWidth": 2},
    "title": {"color": "currentColor", "fontSize": 13, "fontWeight": "normal", "anchor": "start"},
    "header": {"labelColor": "currentColor", "titleColor": "currentColor", "labelFontSize": 12, "titleFontSize": 12},
    "text": {"color": "currentColor", "fontSize": 12},
    "rule": {"color": "currentColor"},
}  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """An entry of the registry.

    Attributes:
        draw: The function.
        rows: The long frame that it reads (``Records.rows``), or "runs" for one row per run.
        title: Heading of the figure.
        alt: Its description, in a sentence.
    """

    draw: Draw
    rows: str
    title: str
    alt: str


#: All figures by name; complete as ``tinylm_ablate.report.figures.FIGURES``.
FIGURES: dict[str, Kind] = {}


def figure(title: str, alt: str, rows: str = "runs") -> Callable[[Draw], Draw]:
    """Add a function to the registry under its own name."""

    def add(draw: Draw) -> Draw:
        FIGURES[draw.__name__] = Kind(draw, rows, title, alt)
        return draw

    return add


def chart(data: pd.DataFrame) -> alt.Chart:
    """Return an Altair chart of a frame, whose ``encode`` takes a tenth of the time for strings.

    Altair looks up the class of each encoded string in its whole schema (10 ms); a channel's name is that of its class.
    """
    return _fast_chart()(data)


@functools.cache
def _fast_chart() -> type[alt.Chart]:
    import altair as alt

    def typed(name: str, value: Any) -> Any:
        if isinstance(value, list):
            return [typed(name, each) for each in value]
        return getattr(alt, f"{name[0].upper()}{name[1:]}")(value) if isinstance(value, str) else value

    class Chart(alt.Chart):
        def encode(self, *channels: Any, **named: Any) -> Any:
            return super().encode(*channels, **{name: typed(name, value) for name, value in named.items()})

    return Chart


def specification(chart: Any) -> dict[str, Any]:
    """Return a chart as a Vega-Lite specification with our theme; the same for the same chart in any process."""
    import altair as alt

    with alt.data_transformers.enable("default", max_rows=None, consolidate_datasets=False):
        spec: dict[str, Any] = chart.to_dict(validate=False)  # Altair checks every row against a schema, which takes most of it
    return {**_rounded(spec), "config": _THEME}


def svg(spec: Mapping[str, Any]) -> str:
    """Render a specification as SVG, in which text has the color of its surroundings."""
    import vl_convert

    drawn: str = vl_convert.vegalite_to_svg(dict(spec))
    # Identifiers count up within a process, but the same figure must have the same bytes.
    numbers: dict[str, str] = {}
    return re.sub(r"\b(clip|gradient_)\d+\b", lambda found: numbers.setdefault(found[0], f"{found[1]}{len(numbers)}"), drawn)


def on_white(drawn: str) -> str:
    """Return a self-contained SVG: dark text on white, and the colors of the page's style."""
    drawn = re.sub(r"var\(--(\w+)\)", lambda found: _ON_WHITE[found[1]], drawn.replace("currentColor", "#24292f"))
    return drawn.replace("<svg ", '<svg style="background:#ffffff" ', 1)


def png(drawn: str) -> bytes:
    """Render an SVG as PNG on white, with two pixels per unit."""
    import vl_convert

    image: bytes = vl_convert.svg_to_png(on_white(drawn), scale=2)
    return image


def save(chart: Any, path: Path) -> list[Path]:
    """Write a chart as SVG and PNG.

    Args:
        chart: The chart.
        path: Output path without a suffix.
    """
    return save_drawn(svg(specification(chart)), path)


def save_drawn(drawn: str, path: Path) -> list[Path]:
    """Write an SVG and its PNG, unless they exist already: PNGs take most of a report's time."""
    written = [path.with_name(f"{path.name}{suffix}") for suffix in (".svg", ".png")]
    text = on_white(drawn)
    if not (written[1].is_file() and written[0].is_file() and written[0].read_text(encoding="utf-8") == text):
        write_atomic(written[1], png(drawn))
        write_atomic(written[0], text)
    return written


def axis_title(measure: str) -> str:
    """Return a measure's title for an axis, which shows shares as measured; tables write them in percent."""
    return by_name(measure, 0).title.replace(" %", "")


def short_title(key: str) -> str:
    """Return a column's name for an axis: the last part of a setting's key, or the title of a measure."""
    title = axis_title(key)
    return title if title != key else key.split(".")[-1].replace("_", " ")


def value_text(value: Any) -> str:
    """Format a value of a column as text; a float as a count."""
    if isinstance(value, float):
        return count(value) if math.isfinite(value) else "–"
    return str(value)


def _rounded(value: Any) -> Any:
    """Round numbers to six digits, so that a figure does not depend on the last bit of a CPU's arithmetic."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _rounded(entry) for key, entry in value.items()}
    return [_rounded(entry) for entry in value] if isinstance(value, list) else value
