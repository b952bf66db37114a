"""What a grid has found so far, as the frames that the science package reads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tinylm_ablate.config import walk
from tinylm_ablate.execute.perform import results
from tinylm_ablate.grid.parts import Part
from tinylm_ablate.measure.records import read_rows
from tinylm_ablate.measure.registry import requested
from tinylm_ablate.settled import Settled
from tinylm_ablate.tracking.folders import curve_of

if TYPE_CHECKING:
    from tinylm_ablate.science.evidence import Evidence

#: Groups of settings whose values separate runs into different questions.
_APART = ("scale.", "data.", "tokenizer.", "arch.", "init.", "optimizer.", "rounds.", "train.", "evaluate.")


def evidence(part: Part) -> Evidence:
    """The finished runs of one experiment of a grid."""
    import pandas as pd

    from tinylm_ablate.science.evidence import Evidence

    axis = list(dict.fromkeys(key for cell in part.cells for key in cell.values if key != "seed"))
    rows: list[dict[str, Any]] = []
    documents: list[dict[str, Any]] = []
    curves: list[dict[str, Any]] = []
    keys: set[str] = set()
    for cell in part.cells:
        run = part.settled[cell]
        record = results(run)
        if record is None:
            continue
        settings = {key: value for key, value, _ in walk(run.config) if key.startswith(_APART) and _plain(value)}
        keys |= settings.keys()
        about = {
            "identity": run.identity, "grid": "this", "arm": part.arm_of(cell), "seed": run.config.seed,
            "tokens": run.tokens, "steps": run.steps, "parameters.total": record["parameters"]["total"],
            "scale": run.config.scale.name, "role": "arm", "tuned": part.tuned.get(part.arm_of(cell), "untuned"),
        }  # fmt: skip
        rows.append(settings | about | {_column(key): cell.values.get(key, "") for key in axis} | dict(record["metrics"]))
        documents += [{"identity": run.identity, **row} for row in document_rows(run)]
        curves += curve_rows(run, record)
    frame = pd.DataFrame(rows, columns=None if rows else ["arm", "seed"]).drop_duplicates(["arm", "seed"])
    found, losses = (pd.DataFrame(own) if own else None for own in (documents, curves))
    return Evidence(part.base.experiment.name, axis, frame, sorted(keys), found, None, losses)


def _column(key: str) -> str:
    """The column of an axis; "arm" is the label of the whole place."""
    return "grid.arm" if key == "arm" else key


def document_rows(run: Settled) -> list[dict[str, Any]]:
    """What each held-out document cost, where it was measured."""
    stems = [request.stem for request in requested(run) if request.measure.name == "bits_per_byte"]
    return [row for stem in stems for row in read_rows(run.folder, stem)]


def curve_rows(run: Settled, record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The run's training losses in bits per byte; what 5 % more tokens are worth is read off them."""
    per_token = [float(rate) for rate in record["vocabulary"]["bytes_per_token"].values() if rate]
    path = run.folder / "curve.jsonl"
    if not per_token or not path.is_file():
        return []
    scale = len(per_token) / math.fsum(per_token) / math.log(2)
    rows = [(tokens, row["loss"]) for tokens, row in curve_of(path) if "loss" in row]
    return [{"identity": run.identity, "tokens": tokens, "bits": loss * scale} for tokens, loss in rows]


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | bool)
