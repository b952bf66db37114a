"""Folder of the configuration: in the checkout's top folder, or inside the package once a wheel is installed."""

from __future__ import annotations

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def config_root() -> Path:
    """The folder that holds ``conf/`` and ``experiments/``.

    In a checkout, editable install or not, that is the top folder, so that an edit there counts at once. A wheel carries
    both folders inside the package.

    Raises:
        FileNotFoundError: Neither place has them; the installation is damaged.
    """
    for root in (_PACKAGE, _PACKAGE.parent):
        if (root / "conf" / "config.yaml").is_file():
            return root
    raise FileNotFoundError(
        f"conf/config.yaml is neither in {_PACKAGE} nor in {_PACKAGE.parent}: install tinylm-ablate again, "
        "or run from a whole checkout"
    )


def conf_dir() -> Path:
    """The folder of ``config.yaml`` and of one folder a config group."""
    return config_root() / "conf"


def paper_dir() -> Path:
    """The folder of the paper's printed numbers, one CSV per table or figure."""
    return _PACKAGE / "report" / "paper"


def experiments_dir() -> Path:
    """The folder with one YAML file a table or figure; it need not exist where none is defined."""
    return config_root() / "experiments"


def user_cache() -> Path:
    """The folder for what is worth keeping on this machine for this user, whatever the project; it need not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tinylm_ablate"
