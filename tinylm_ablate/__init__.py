"""Composable, cheap, resumable and statistically honest ablations of tiny language models.

The public interface is imported on first use: ``run``, ``grid`` and ``plan`` take command-line arguments; ``runs``,
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
    """Import a public name on first use, so that importing the package is fast."""
    if name in ("along", "compare", "curves", "runs"):
        from tinylm_ablate.report import notebook

        return getattr(notebook, name)
    if name in __all__:
        from tinylm_ablate import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
