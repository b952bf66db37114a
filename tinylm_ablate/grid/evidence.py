"""What a grid has found so far, as the frames that the science package reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tinylm_ablate.config import walk
from tinylm_ablate.execute.perform import results
from tinylm_ablate.grid.parts import Part
from tinylm_ablate.measure.records import read_rows
from tinylm_ablate.measure.registry import requested
from tinylm_ablate.settled import Settled

if TYPE_CHECKING:
    from tinylm_ablate.science.evidence import Evidence

#: Groups of settings that can set runs apart as questions.
_APART = ("scale.", "data.", "tokenizer.", "arch.", "init.", "optimizer.", "rounds.", "train.", "evaluate.")


def evidence(part: Part) -> Evidence:
    """The finished runs of one experiment of a grid."""
    import pandas as pd

    from tinylm_ablate.science.evidence import Evidence

    axis = list(dict.fromkeys(key for cell in part.cells for key in cell.values if key != "seed"))
    rows: list[dict[str, Any]] = []
    documents: list[dict[str, Any]] = []
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
        rows.append(settings | about | {key: cell.values.get(key, "") for key in axis} | dict(record["metrics"]))
        documents += [{"identity": run.identity, **row} for row in document_rows(run)]
    frame = pd.DataFrame(rows, columns=None if rows else ["arm", "seed"]).drop_duplicates(["arm", "seed"])
    return Evidence(part.base.experiment.name, axis, frame, sorted(keys), pd.DataFrame(documents) if documents else None)


def document_rows(run: Settled) -> list[dict[str, Any]]:
    """What each held-out document cost, where it was measured."""
    stems = [request.stem for request in requested(run) if request.measure.name == "bits_per_byte"]
    return [row for stem in stems for row in read_rows(run.folder, stem)]


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | bool)
