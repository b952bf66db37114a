"""Provenance of a run's numbers: code, versions, machine."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

from tinylm_ablate.errors import UserError, listed
from tinylm_ablate.secrets import cut
from tinylm_ablate.version import __version__

_PACKAGES = (
    "torch",
    "lightning",
    "hydra-core",
    "omegaconf",
    "tokenizers",
    "datasets",
    "mlflow",
    "numpy",
    "pandas",
    "pytorch-optimizer",
    "safetensors",
)

#: Environment variable that passes the command line to workers.
COMMAND = "TINYLM_ABLATE_COMMAND"


def provenance() -> dict[str, Any]:
    """Return commit and uncommitted changes (None in an installed wheel), package versions, machine, and command line."""
    return {**_environment(), "command": command()}


@cache
def _environment() -> dict[str, Any]:
    """Part of the provenance that is the same for all commands of a process."""
    return {
        "tinylm_ablate": __version__,
        **_checkout(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "processor": _processor(),
            "cores": os.cpu_count(),
            "accelerator": _accelerator(),
        },
    }


def command() -> list[str]:
    """Command line of this process, or of the one that started this worker; without passwords."""
    carried = os.environ.get(COMMAND)
    if carried:
        return cut([str(word) for word in json.loads(carried)])
    program = Path(sys.argv[0]).name
    return cut([*(["python", "-m", "tinylm_ablate"] if program == "__main__.py" else [program]), *sys.argv[1:]])


def require_clean() -> None:
    """Refuse a checkout with uncommitted changes. An installed package has no checkout and is identified by its version.

    Raises:
        UserError: Files differ from the commit.
    """
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return
    changed = (_git(root, "status", "--porcelain", "--untracked-files=all") or "").splitlines()
    if changed:
        names = listed([line[3:] for line in changed], 5)
        raise UserError(
            f"grid.require_clean=true: {root} differs from its commit in {names}; nothing was run. "
            "Commit these files, or set grid.require_clean=false"
        )


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _checkout() -> dict[str, Any]:
    root = Path(__file__).resolve().parent.parent
    commit = _git(root, "rev-parse", "HEAD") if (root / ".git").exists() else None
    if commit is None:
        return {"commit": None, "dirty": None, "difference": None}
    difference = (_git(root, "diff", "HEAD") or "") + (_git(root, "status", "--porcelain", "--untracked-files=all") or "")
    digest = hashlib.sha256(difference.encode()).hexdigest()[:16] if difference else None
    return {"commit": commit.strip(), "dirty": bool(difference), "difference": digest}


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def _accelerator() -> str | None:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    return str(torch.cuda.get_device_name())
