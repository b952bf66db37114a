"""Composable, cheap, resumable and statistically honest ablations of tiny language models.

The public interface, imported when first used: ``run``, ``grid`` and ``plan`` take the words of the command line; ``runs``,
``curves``, ``along`` and ``compare`` read results as data frames; ``load_model`` opens a trained model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tinylm_ablate.version import __version__

if TYPE_CHECKING:
    from tinylm_ablate.api import grid, load_model, plan, run
    from tinylm_ablate.report.notebook import along, compare, curves, runs

__all__ = ["__version__", "along", "compare", "curves", "grid", "load_model", "plan", "run", "runs"]


def __getattr__(name: str) -> Any:
    """Load what is requested only then, so that importing the package costs nothing."""
    if name in ("along", "compare", "curves", "runs"):
        from tinylm_ablate.report import notebook

        return getattr(notebook, name)
    if name in __all__:
        from tinylm_ablate import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
