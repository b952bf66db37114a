"""Content of one run for MLflow, from its files; MLflow is not imported."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tinylm_ablate.arch.shapes import Shape, parameters
from tinylm_ablate.config import GROUPS
from tinylm_ablate.errors import ConfigError
from tinylm_ablate.files import fingerprint, read_json
from tinylm_ablate.secrets import cut
from tinylm_ablate.tracking.folders import (
    Grid,
    curve_of,
    files_of,
    milliseconds,
    points_of,
    results_of,
    stat_of,
    status_of,
)  # fmt: skip

#: Settings that do not affect what a run trains.
_OTHER_GROUPS = ("tracking.", "experiment.", "grid.", "search.", "generate.", "plan.", "scale.", "evaluate.")
_OTHER_KEYS = {"mode", "model", "prompt", "folder", "progress", "runs_dir", "cache_dir", "results_dir", "seeds"}

#: Numbers that describe the text of a metric; equal for every run of a grid.
CONSTANT = re.compile(r".*/(documents|bytes|questions|tokens)")

#: MLflow sorts charts by name: the loss comes first, and other values of the curve after the results.
LOSS, CURVE = "curve/loss", "train/curve/"

#: Measurements during training (``evaluate.every``).
ALONG = "along/"

#: Results that are shown first, if they were measured.
SHOWN = ("test/bits_per_byte/all", "validation/bits_per_byte/all", "test/cloze/all", "train/loss", "train/tokens_per_second")


@dataclass(frozen=True)
class Snapshot:
    """Target state of one run of a tracker, according to the files.

    Attributes:
        key: Key of the run in the store: the identity of a run or a grid, or a fingerprint of an arm.
        name: Name for people.
        status: MLflow's status: SCHEDULED, RUNNING, FINISHED, FAILED or KILLED.
        start, end: Milliseconds since 1970; ``end`` is None while the run is active.
        signature: Changes whenever anything here may have changed.
        parent: Key of the run that this one is nested in.
        metrics: Results.
        curve: Rows of tokens and values, ascending.
        points: Measurements during training: tokens and values, by file.
        files: Path of each artifact by its name.
        dataset: Name, digest and source of the training text.
        model: Folder of the trained model.
    """

    key: str
    name: str
    status: str
    start: int
    end: int | None
    signature: str
    parent: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    parameters: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    curve: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    points: dict[str, tuple[int, dict[str, float]]] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    dataset: tuple[str, str, str] | None = None
    model: Path | None = None


def signature_of(folder: Path, grids: Sequence[Grid], held: Collection[str]) -> str:
    """Return a signature that changes whenever the snapshot of a run may have changed; reads no file."""
    files = [(name, *stat_of(path)) for name, path in files_of(folder, ended=True)]
    mine = [(grid.identity, grid.cells[folder.name]) for grid in grids if folder.name in grid.cells]
    nests = [grid.identity for grid in grids[:1]]
    return fingerprint([files, mine, nests, status_of(folder, held), (folder / "model").is_dir()])


def snapshot_of(folder: Path, grids: Sequence[Grid], held: Collection[str]) -> Snapshot:
    """Create the snapshot of a run.

    Args:
        folder: Its folder.
        grids: The grids that include it, as a cell or as a need of a cell, newest first.
        held: The runs that are active now.

    Raises:
        ValueError: ``settled.json`` is damaged.
    """
    signature, status = signature_of(folder, grids, held), status_of(folder, held)
    settled, provenance = read_json(folder / "settled.json"), read_json(folder / "provenance.json")
    config = settled.get("config")
    if not isinstance(config, dict):
        raise ValueError(f"{folder / 'settled.json'}: is damaged")
    results, seed = results_of(folder), config.get("seed")
    cells = [grid for grid in grids if folder.name in grid.cells]
    experiment = cells[0].name if cells else str(_group(config, "experiment").get("name"))
    arm = cells[0].arm(folder.name) if cells else _arm(settled)
    tags = {"identity": folder.name, "experiment": experiment, "arm": arm, "seed": str(seed), "scale": _scale(config)}
    tags |= {f"grid.{grid.identity}": "cell" if grid in cells else "needed" for grid in grids}
    for grid in reversed(cells):
        tags |= {f"arm.{grid.name}": grid.arm(folder.name)} | chosen(grid.cells[folder.name][1])
    named = cells[0].label == experiment if cells else experiment != "adhoc"
    name = run_name(experiment if named else "", arm, f"seed={seed}")
    settings = _parameters(settled) | {name: f"{value:g}" for name, value in results.items() if CONSTANT.fullmatch(name)}
    kept = _group(config, "train").get("keep_model")
    files = dict(files_of(folder, ended=True))
    return Snapshot(
        key=folder.name,
        name=cells[0].cells[folder.name][0] if cells and cells[0].is_search else name,
        status=status,
        start=milliseconds(folder / "settled.json"),
        end=None if status == "RUNNING" else max(map(milliseconds, files.values())),
        signature=signature,
        parent=grids[0].identity if grids else None,
        tags=tags | _provenance_tags(provenance),
        parameters=settings,
        metrics={name: rounded(value) for name, value in results.items() if name not in settings},
        curve=[
            (tokens, {LOSS if name == "loss" else f"{CURVE}{name}": value for name, value in row.items()})
            for tokens, row in curve_of(folder / "curve.jsonl")
        ],
        points=_points(folder, config),
        files={name: path for name, path in files.items() if status != "RUNNING" or name != "curve.jsonl"},
        dataset=_dataset(settled, config),
        model=folder / "model" if status == "FINISHED" and kept and (folder / "model").is_dir() else None,
    )


def _points(folder: Path, config: Mapping[str, Any]) -> dict[str, tuple[int, dict[str, float]]]:
    """Measurements along a run, by tokens; without errors and sizes."""
    batch = int(_group(config, "train").get("batch_tokens") or 0)
    return {
        name: (step * batch, {f"{ALONG}{key}": value for key, value in metrics.items() if _drawn(key)})
        for name, (step, metrics) in points_of(folder).items()
    }


def _drawn(name: str) -> bool:
    return not (name.endswith("standard_error") or CONSTANT.fullmatch(name))


def run_name(experiment: str, arm: str, which: str) -> str:
    """Return a name for a narrow column; table02_depth_width is table02, and an experiment without a name is omitted."""
    return " ".join(dict.fromkeys(filter(None, (re.sub(r"^([a-z]+\d+)_.*", r"\1", experiment), arm, which))))


def chosen(overrides: Mapping[str, str]) -> dict[str, str]:
    """Return the choices of config groups, as tags: a run has only the settings that they stand for as parameters."""
    return {key: value for key, value in overrides.items() if key in GROUPS}


def rounded(value: float) -> float:
    """Round a result for display, since MLflow's tables print every digit; the files have full precision."""
    return float(f"{value:.6g}")


def source_tags(command: Any) -> dict[str, str]:
    """Return MLflow's source, and the original command line."""
    words = [str(word) for word in cut(command)] if isinstance(command, list) else []
    return {"mlflow.source.type": "LOCAL", "mlflow.source.name": "tinylm-ablate", "command": " ".join(words)}


def _group(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = config.get(name)
    return found if isinstance(found, dict) else {}


def _scale(config: Mapping[str, Any]) -> str:
    return str(_group(config, "scale").get("name"))


def _arm(settled: Mapping[str, Any]) -> str:
    shape = settled.get("shape") or {}
    return f"depth={shape.get('depth')} width={shape.get('width')}"


def _parameters(settled: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings under dotted keys, with resolved values instead of "auto"."""
    shape = dict(settled.get("shape") or {})
    found: dict[str, Any] = {
        key: value
        for key, value in _flat(settled["config"])
        if value is not None and key not in _OTHER_KEYS and not key.startswith(_OTHER_GROUPS)
    }
    found.pop("arch.parameters", None)
    found |= {f"arch.{key}": value for key, value in shape.items() if key != "vocab_size"}
    with contextlib.suppress(TypeError, ConfigError):  # a shape of another version, or a block that cannot be imported
        found |= {"arch.parameters": parameters(Shape(**shape))["total"]}
    found |= {"tokenizer.vocab_size": shape.get("vocab_size"), "scale": _scale(settled["config"])}
    found |= {"train.tokens": settled.get("tokens"), "train.steps": settled.get("steps")}
    found |= {key: settled.get(key) for key in ("learning_rate", "precision", "text", "vocabulary")}
    parent = settled.get("parent")
    found["init.parent"] = parent.get("identity") if isinstance(parent, dict) else found.get("init.parent", "none")
    return {key: str(value) for key, value in cut(found).items() if value is not None}


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _dataset(settled: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[str, str, str] | None:
    data = _group(config, "data")
    if not settled.get("text"):
        return None
    name = str(data.get("name") or data.get("path") or data.get("source"))
    return Path(name).name or name, str(settled["text"])[:36], json.dumps(cut({k: v for k, v in data.items() if v is not None}))


def _provenance_tags(provenance: Mapping[str, Any]) -> dict[str, str]:
    tags = source_tags(provenance.get("command"))
    if commit := provenance.get("commit"):
        tags["mlflow.source.git.commit"] = str(commit)
        tags["tinylm.dirty"] = str(provenance.get("dirty")).lower()
    return tags
