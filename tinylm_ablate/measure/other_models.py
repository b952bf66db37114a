"""Scores of external models, stored in ``runs_dir/models/<identity>/``.

``model.json`` has the name and size of a model; its records are in ``measures/`` next to it, like those of a run.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tinylm_ablate.arch.shapes import parameters, plain
from tinylm_ablate.files import write_atomic
from tinylm_ablate.init.parents import open_parent

#: Version of the format of ``model.json``.
SCHEMA = 1

#: The folder in ``runs_dir``.
FOLDER = "models"


def model_home(name: str, model: Path, runs_dir: Path) -> Path:
    """Return the folder of a model's records, which does not depend on the location of the model.

    Args:
        name: The user's name for it.
        model: Its folder or GGUF file, which is read completely.
        runs_dir: Folder of the runs.

    Raises:
        UserError: The model does not exist, is damaged, or is not supported by our decoder.
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
