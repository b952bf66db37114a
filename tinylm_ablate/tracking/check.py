"""The mistakes of the group ``tracking``, told before anything is built; nothing of MLflow is imported."""

from __future__ import annotations

from tinylm_ablate.config import TrackingConfig


def tracking_mistakes(tracking: TrackingConfig) -> list[str]:
    """One line a mistake, of the form "key=value: what is allowed"."""
    uri = tracking.uri
    if tracking.kind == "none" or uri is None or uri in {"databricks", "databricks-uc"}:
        return []
    if "://" not in uri:
        return [f"tracking.uri={uri}: allowed: sqlite:///FILE, http://HOST:PORT, or null for an sqlite file in runs_dir"]
    if uri.startswith("file:"):
        return [f"tracking.uri={uri}: MLflow keeps no runs in plain files any more; allowed: sqlite:///FILE, http://HOST:PORT"]
    return []
