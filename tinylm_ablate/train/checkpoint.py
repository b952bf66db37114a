"""Checkpoints of a run in training: plain tensors and JSON with checksums, written atomically.

A checkpoint is a folder ``step-<n>`` with the weights, the optimizer's tensors by the names of the parameters, the curve and
the events so far, and ``state.json`` with everything else, the SHA-256 of the other files, and its own. Nothing is unpickled. A
checkpoint is taken between two optimizer steps, and the data order is a function of the step, so a run that resumes from it
sees the same batches as without interruption: alone or in a stack, on this device or another.
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
    """Write a checkpoint to ``folder`` and remove all but the newest two."""
    target = folder / f"step-{checkpoint.step:09d}"
    if target.exists():
        if _read(target) is not None:
            return target
        shutil.rmtree(target)  # damaged, and the run has reached this step again
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
    """Read the newest intact checkpoint in ``folder``; None if there is none.

    A damaged checkpoint causes a warning, and the previous one is used.
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
    """Return the checkpoint with the initial weights and optimizer state: the run's own, or that of the previous round.

    Raises:
        RunFailed: The previous round's state cannot be read.
    """
    if restored is not None or member.start.checkpoints is None:
        return restored
    before = restore(member.start.checkpoints)
    if before is None:
        raise RunFailed(f"{member.start.checkpoints}: no intact checkpoint to resume from; remove its run to train it again")
    return before


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in ``folder``, oldest first."""
    return sorted(folder.glob("step-*")) if folder.is_dir() else []


def _read(path: Path) -> dict[str, Any] | None:
    """Return the content of ``state.json`` if the checkpoint is intact."""
    try:
        described = json.loads((path / _STATE).read_bytes())
        content: dict[str, Any] = described["content"]
        if described["sha256"] != _digest(content):
            raise ValueError(f"{_STATE} does not match its checksum")
        for name, expected in content["sha256"].items():
            if sha256_file(path / name) != expected:
                raise ValueError(f"{name} does not match its checksum")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = error if isinstance(error, OSError | ValueError) else f"{_STATE} has changed"
        warnings.warn(f"checkpoint {path} is damaged ({reason}); the one before it is used", stacklevel=3)
        return None
    return content


def _digest(content: dict[str, Any]) -> str:
    """Return the text to checksum: JSON restores numbers exactly, so that it is the same after reading."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
