"""Checkpoints of a run in progress: plain tensors and JSON, checked by hash, written whole or not at all.

A checkpoint is a folder ``step-<n>`` with ``model.safetensors``, ``optimizer.safetensors`` and ``state.json``; the latter holds
the SHA-256 of the other two. Nothing in it is unpickled. It is taken between two optimizer steps, and the data order is a
function of the step, so that a run that goes on from it sees the batches that it would have seen.
"""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tinylm_ablate.files import building, sha256_file, write_atomic
from tinylm_ablate.train.devices import whole

_KEPT = 2


def save(
    folder: Path, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any], write: bool = True
) -> Path:
    """Write the checkpoint of optimizer step ``step`` into ``folder`` and drop all but the newest two.

    Weights that lie in parts on several devices are gathered: each process must call this, and one of them writes.
    """
    target = folder / f"step-{step:09d}"
    described = optimizer.state_dict()
    tensors, scalars = _flatten(described["state"])
    weights = _unique({name: whole(value) for name, value in model.state_dict().items()})
    if not write or target.exists():
        return target
    groups = [_scalars(group) for group in described["param_groups"]]
    with building(target) as temporary:
        save_file({name: value.contiguous() for name, value in weights.items()}, temporary / "model.safetensors")
        save_file(tensors, temporary / "optimizer.safetensors")
        hashes = {name: sha256_file(temporary / name) for name in ("model.safetensors", "optimizer.safetensors")}
        content = {"step": step, "sha256": hashes, "optimizer": scalars, "groups": groups, "state": state}
        write_atomic(temporary / "state.json", json.dumps(content))
    for old in checkpoints(folder)[:-_KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def restore(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, dict[str, Any]] | None:
    """Load the newest sound checkpoint into ``model`` and ``optimizer``.

    Returns:
        The optimizer step and the state that were saved, or None where there is no checkpoint. A damaged one is told by a
        warning, and the one before is used.
    """
    for path in reversed(checkpoints(folder)):
        try:
            content = json.loads((path / "state.json").read_text())
            for name, expected in content["sha256"].items():
                if sha256_file(path / name) != expected:
                    raise ValueError(f"{name} does not match its checksum")
        except (OSError, ValueError, KeyError) as error:
            warnings.warn(f"checkpoint {path} is damaged ({error}); the one before it is used", stacklevel=2)
            continue
        model.load_state_dict(load_file(path / "model.safetensors"), strict=False)
        described = optimizer.state_dict()
        described["state"] = _unflatten(load_file(path / "optimizer.safetensors"), content["optimizer"])
        for group, saved in zip(described["param_groups"], content.get("groups", []), strict=False):
            group |= saved
        optimizer.load_state_dict(described)
        return int(content["step"]), dict(content["state"])
    return None


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in ``folder``, oldest first."""
    return sorted(folder.glob("step-*")) if folder.is_dir() else []


def _unique(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each tensor once: tied matrices stand under two names, and safetensors refuses shared memory."""
    seen: dict[int, str] = {}
    return {name: value for name, value in state.items() if seen.setdefault(value.data_ptr(), name) == name}


def _scalars(group: dict[str, Any]) -> dict[str, Any]:
    """What an optimizer keeps for a whole group of parameters, such as the sums of schedule-free averaging."""
    return {name: value for name, value in group.items() if isinstance(value, bool | int | float)}


def _flatten(state: dict[int, dict[str, Any]]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, Any] = {}
    for index, entries in state.items():
        for name, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{name}"] = whole(value).contiguous()
            else:
                scalars[f"{index}.{name}"] = value
    return tensors, scalars


def _unflatten(tensors: dict[str, Tensor], scalars: dict[str, Any]) -> dict[int, dict[str, Any]]:
    state: dict[int, dict[str, Any]] = {}
    for key, value in (tensors | scalars).items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    return state
