"""Checkpoints of a run in progress: one checked unit of plain tensors and JSON, written whole or not at all.

A checkpoint is a folder ``step-<n>``: the weights, the optimizer's tensors by the names of the parameters, the curve and the
events so far, and ``state.json`` with everything else, the SHA-256 of the other files, and its own. Nothing in it is unpickled.
It is taken between two optimizer steps, and the data order is a function of the step, so a run that resumes from it sees the
batches that it would have seen: alone or in a stack, on this device or another.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from tinylm_ablate.errors import RunFailed
from tinylm_ablate.files import building, save_tensors, sha256_file, write_atomic
from tinylm_ablate.train.member import CURVE, EVENTS, Checkpoint, Member

_KEPT = 2

_WEIGHTS, _OPTIMIZER, _STATE = "model.safetensors", "optimizer.safetensors", "state.json"
_FILES = {_WEIGHTS, _OPTIMIZER, CURVE, EVENTS}


def save(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint into ``folder`` and drop all but the newest two."""
    target = folder / f"step-{checkpoint.step:09d}"
    if target.exists():
        if _read(target) is not None:
            return target
        shutil.rmtree(target)  # damaged, and this run has reached this step again
    tensors = {f"{kind}.{name}": value for kind, values in checkpoint.kept.items() for name, value in values.items()}
    with building(target) as temporary:
        for name, named in ((_WEIGHTS, checkpoint.weights), (_OPTIMIZER, tensors)):
            save_tensors(temporary / name, {key: value.detach().cpu().contiguous() for key, value in named.items()})
        for name, text in checkpoint.records.items():
            (temporary / name).write_text(text, encoding="utf-8")
        content: dict[str, Any] = {
            "step": checkpoint.step, "counters": checkpoint.counters, "recorder": checkpoint.recorder,
            "sha256": {name: sha256_file(temporary / name) for name in sorted(_FILES)},
        }  # fmt: skip
        write_atomic(temporary / _STATE, json.dumps({"sha256": _digest(content), "content": content}))
    for old in checkpoints(folder)[:-_KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def restore(folder: Path) -> Checkpoint | None:
    """Read the newest sound checkpoint in ``folder``; None where there is none.

    A damaged one is reported by a warning, and the one before it is used.
    """
    for path in reversed(checkpoints(folder)):
        if (content := _read(path)) is not None:
            kept: dict[str, dict[str, Tensor]] = {}
            for key, value in load_file(path / _OPTIMIZER).items():
                kind, name = key.split(".", 1)
                kept.setdefault(kind, {})[name] = value
            records = {name: (path / name).read_text(encoding="utf-8") for name in (CURVE, EVENTS)}
            weights = load_file(path / _WEIGHTS)
            return Checkpoint(content["step"], weights, kept, content["counters"], content["recorder"], records)
    return None


def opening(member: Member, restored: Checkpoint | None) -> Checkpoint | None:
    """The checkpoint that weights and optimizer of a run begin with: the run's own, or that of the round before.

    Raises:
        RunFailed: The round before kept its state, and it cannot be read.
    """
    if restored is not None or member.start.checkpoints is None:
        return restored
    before = restore(member.start.checkpoints)
    if before is None:
        raise RunFailed(f"{member.start.checkpoints}: no sound checkpoint to resume from; remove its run to train it again")
    return before


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in ``folder``, oldest first."""
    return sorted(folder.glob("step-*")) if folder.is_dir() else []


def _read(path: Path) -> dict[str, Any] | None:
    """Content of ``state.json``, if everything in the checkpoint is as it was written."""
    try:
        described = json.loads((path / _STATE).read_bytes())
        content: dict[str, Any] = described["content"]
        if described["sha256"] != _digest(content):
            raise ValueError(f"{_STATE} does not match its checksum")
        for name, expected in content["sha256"].items():
            if sha256_file(path / name) != expected:
                raise ValueError(f"{name} does not match its checksum")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = error if isinstance(error, OSError | ValueError) else f"{_STATE} is not what was written"
        warnings.warn(f"checkpoint {path} is damaged ({reason}); the one before it is used", stacklevel=3)
        return None
    return content


def _digest(content: dict[str, Any]) -> str:
    """Numbers come back from JSON as they went in, so the text of what was read is the text of what was written."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
