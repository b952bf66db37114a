"""Locations of ``conf/``, ``experiments/`` and the paper's numbers, in a checkout or an installed wheel."""

from __future__ import annotations

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def config_root() -> Path:
    """Return the folder with ``conf/`` and ``experiments/``.

    In a checkout, editable install or not, this is the top folder, so that edits take effect immediately. In a wheel, both
    folders are inside the package.

    Raises:
        FileNotFoundError: Neither location has them; the installation is damaged.
    """
    for root in (_PACKAGE, _PACKAGE.parent):
        if (root / "conf" / "config.yaml").is_file():
            return root
    raise FileNotFoundError(
        f"conf/config.yaml is neither in {_PACKAGE} nor in {_PACKAGE.parent}: reinstall tinylm-ablate, "
        "or run from a complete checkout"
    )


def conf_dir() -> Path:
    """Return the folder with ``config.yaml`` and one folder per config group."""
    return config_root() / "conf"


def paper_dir() -> Path:
    """Return the folder with the paper's numbers, one CSV per table or figure."""
    return _PACKAGE / "report" / "paper"


def experiments_dir() -> Path:
    """Return the folder with one YAML file per table or figure; it may not exist."""
    return config_root() / "experiments"


def choice_folders(group: str) -> list[Path]:
    """Return the folders of a config group's files, in Hydra's order."""
    return [Path.cwd() / group, Path.cwd() / "conf" / group, conf_dir() / group, experiments_dir().parent / group]


def choices(group: str) -> list[str]:
    """Return the names of a config group's files."""
    return sorted({path.stem for place in choice_folders(group) for path in place.glob("*.yaml")} - {"schema"})


def user_cache() -> Path:
    """Return the user's cache folder, which all projects share; it may not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tinylm_ablate"
