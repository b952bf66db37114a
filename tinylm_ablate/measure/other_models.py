"""Models that no run of ours trained, and the scores that are kept of them: ``runs_dir/models/<identity>/``.

``model.json`` says what a model is called and how large it is; its records are in ``measures/`` beside it, as a run's are.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tinylm_ablate.arch.shapes import parameters, plain
from tinylm_ablate.files import write_atomic
from tinylm_ablate.init.parents import open_parent

#: Version of the layout of ``model.json``.
SCHEMA = 1

#: The folder below ``runs_dir``.
FOLDER = "models"


def model_home(name: str, model: Path, runs_dir: Path) -> Path:
    """The folder of the records of a model, which is one and the same wherever the model lies.

    Args:
        name: What the user calls it.
        model: Its folder or GGUF file; every byte is read once.
        runs_dir: Where runs are.

    Raises:
        UserError: There is no model, it is damaged, or our decoder cannot express it.
    """
    opened = open_parent(str(model), runs_dir)
    home = runs_dir / FOLDER / opened.fingerprint
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "name": name.rstrip("/"),
        "shape": plain(opened.shape),
        "parameters": parameters(opened.shape)["total"],
    }
    if not (home / "model.json").exists():
        write_atomic(home / "model.json", json.dumps(content, indent=1, sort_keys=True))
    return home
