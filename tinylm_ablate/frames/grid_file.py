"""The file of a grid: its cells, and everything for its page."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tinylm_ablate.files import FINGERPRINT

#: The axis to average over.
SEED = "seed"

#: Pattern of the stems of measures' files.
MEASURE_STEM = re.compile(r"([a-z][a-z0-9_]*)\.([0-9a-f]{4,64})")


@dataclass(frozen=True)
class Cell:
    """One cell of a grid.

    Attributes:
        identity: The run.
        overrides: Its value on each axis, as text.
        measures: Stems of the files of its measures.
        tuned: Result of the tuning of its arm: "interior", "edge" or "untuned".
    """

    identity: str
    overrides: Mapping[str, str]
    measures: Sequence[str] = ()
    tuned: str = "untuned"

    @property
    def arm(self) -> str:
        """The label of its arm."""
        return label(self.overrides)


@dataclass(frozen=True)
class Grid:
    """One grid, read from its file.

    Attributes:
        identity: Its identity.
        name: Name of the experiment; grids with one name share a page.
        title: Title of the table.
        note: Note for readers, shown with the table.
        axis: Keys that vary, including "seed".
        paper: Stem of the paper's CSV, or None.
        paper_axis: Columns of that CSV that identify an arm.
        correlate: Columns whose rank correlation with quality is shown.
        figures: Names of further figures.
        tuning: The tuning curves of its arms: mappings with arm, key, best factor, state, and curve (factor, loss, identity).
        command: The command line that ran it.
        created: Time of creation in ISO format; newest first on the page.
        cells: Cells in the order of the grid.
    """

    identity: str
    name: str
    title: str
    note: str
    axis: Sequence[str]
    paper: str | None
    paper_axis: Sequence[str]
    correlate: Sequence[str]
    figures: Sequence[str]
    command: Sequence[str]
    created: str
    cells: Sequence[Cell] = field(repr=False)
    tuning: Sequence[Mapping[str, Any]] = field(default=(), repr=False)


def alone(identity: str) -> Grid:
    """Return a single run as a grid of one cell."""
    return Grid(identity, "", "", "", ["run"], None, [], [], [], [], "", [Cell(identity, {"run": identity})])


def label(place: Mapping[str, str]) -> str:
    """Label of an arm: its values on the axes except the seed, with long numbers shortened: 2.6666666666666665 is 2.667."""
    return ", ".join(short(value) for key, value in place.items() if key != SEED) or "all runs"


def short(text: str) -> str:
    """Shorten long numbers in an axis value."""
    try:
        return f"{float(text):.4g}" if len(text) > 8 else text
    except ValueError:
        return text


def parse_grid(content: Mapping[str, Any]) -> Grid:
    """A grid from the content of its file.

    Raises:
        KeyError, ValueError, TypeError, AttributeError: It is damaged.
    """
    cells = [
        Cell(
            identity(cell["identity"]),
            {str(key): str(value) for key, value in cell["overrides"].items()},
            [stem for stem in map(str, cell.get("measures") or []) if MEASURE_STEM.fullmatch(stem)],
            str(cell.get("tuned") or "untuned"),
        )
        for cell in content["cells"]
    ]
    lists = {key: [str(word) for word in content.get(key) or []] for key in ("axis", "paper_axis", "correlate", "figures")}
    paper = content.get("paper")
    # Grids identify an arm by keys and values, tables by its label.
    arms = {" ".join(f"{key}={value}" for key, value in cell.overrides.items() if key != SEED): cell.arm for cell in cells}
    return Grid(
        identity(content["identity"]),
        str(content["name"]),
        str(content["title"]),
        str(content.get("note") or ""),
        paper=None if paper is None else str(paper),
        command=[str(word) for word in content.get("command") or []],
        created=str(content.get("created") or ""),
        cells=cells,
        tuning=[_tuning(entry, arms) for entry in content.get("tuning") or []],
        **lists,
    )


def _tuning(entry: Mapping[str, Any], arms: Mapping[str, str]) -> dict[str, Any]:
    """The tuning curve of one arm, under its label; a factor that diverged has no loss."""
    curve = [
        {
            "factor": float(point["factor"]), "loss": None if point["loss"] is None else float(point["loss"]),
            "identity": identity(point["identity"]),
        }
        for point in entry["curve"]
    ]  # fmt: skip
    best = None if entry["best"] is None else float(entry["best"])
    arm = arms.get(str(entry["arm"]), str(entry["arm"]))
    return {"arm": arm, "key": str(entry["key"]), "best": best, "state": str(entry["state"]), "curve": curve}


def identity(text: Any) -> str:
    """Check an identity that is used as a file name.

    Raises:
        ValueError: It is not an identity, such as "../../../x".
    """
    if not isinstance(text, str) or not FINGERPRINT.fullmatch(text):
        raise ValueError(f"identity={text!r} is not sixteen hexadecimal digits")
    return text
