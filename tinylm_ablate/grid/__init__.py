"""Grids and searches: composing and checking cells, tuning, and the sweeper plugins."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any


class _Grid(ModuleType):
    """Makes this package callable: importing it replaces the public function ``tinylm_ablate.grid``, which has its name."""

    def __call__(self, *overrides: str) -> Any:
        """Train and measure a grid; see ``tinylm_ablate.api.grid``."""
        return importlib.import_module("tinylm_ablate.api").grid(*overrides)


sys.modules[__name__].__class__ = _Grid
