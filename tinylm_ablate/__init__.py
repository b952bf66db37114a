"""Composable, cheap, resumable and statistically honest ablations of tiny language models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinylm_ablate.report.notebook import compare, curves, runs

__version__ = "0.1.0"
__all__ = ["__version__", "compare", "curves", "runs"]


def __getattr__(name: str) -> Any:
    """Load what is asked for only then, so that importing the package costs nothing."""
    if name in __all__:
        from tinylm_ablate.report import notebook

        return getattr(notebook, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
