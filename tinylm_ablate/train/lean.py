"""A quicker import of Lightning, which imports torchmetrics.

For metrics that training does not use, torchmetrics imports scipy.signal, transformers and matplotlib where it finds them:
almost half of the time between the start of a run and its first step (docs/LAB.md). It asks ``lightning_utilities`` for them,
and that is made to say here that they are missing. Where it has changed, torchmetrics is imported as it is.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

#: What torchmetrics can do without, by what it calls them.
_OPTIONAL = ("scipy", "transformers", "matplotlib", "scienceplots", "torchvision", "torchaudio", "nltk")


def import_torchmetrics() -> None:
    """Import torchmetrics without its optional packages; nothing, if it is there already."""
    if "torchmetrics" in sys.modules:
        return
    imports: Any = importlib.import_module("lightning_utilities.core.imports")
    available, check = imports.package_available, getattr(imports.RequirementCache, "_check_available", None)
    if check is None:
        return

    def hidden_check(cache: Any) -> None:
        name = cache.requirement or cache.module or ""
        if name.startswith(_OPTIONAL):
            # Kept: the answer stays what it was when torchmetrics was imported.
            cache.available, cache.message = False, f"{name} is not needed"
        check(cache)

    imports.package_available = lambda name: name not in _OPTIONAL and available(name)
    imports.RequirementCache._check_available = hidden_check
    try:
        importlib.import_module("torchmetrics")
    finally:
        imports.package_available, imports.RequirementCache._check_available = available, check
