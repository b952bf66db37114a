"""Mistakes in the group ``tracking``, found before anything is built and without importing a tracker."""

from __future__ import annotations

import importlib.util

from tinylm_ablate.config import TrackingConfig
from tinylm_ablate.secrets import cut
from tinylm_ablate.tracking.loggers import LOGGERS


def tracking_mistakes(tracking: TrackingConfig) -> list[str]:
    """Return one line per mistake, of the form "key=value: what is allowed"."""
    mistakes = []
    for name in tracking.loggers:
        if name not in LOGGERS:
            mistakes.append(f"tracking.loggers={name}: allowed: a list of {', '.join(LOGGERS)}")
        elif (package := LOGGERS[name]) is not None and importlib.util.find_spec(package) is None:
            mistakes.append(
                f"tracking.loggers={name}: needs a package that is not installed: pip install 'tinylm-ablate[{package}]'"
            )
    uri = tracking.uri
    if tracking.kind == "none" or uri is None or uri in {"databricks", "databricks-uc"}:
        return mistakes
    allowed = "allowed: sqlite:///FILE, http://HOST:PORT"
    if "://" not in uri:
        mistakes.append(cut(f"tracking.uri={uri}: {allowed}, or null for an sqlite file in runs_dir"))
    elif uri.startswith("file:"):
        mistakes.append(cut(f"tracking.uri={uri}: MLflow no longer keeps runs in plain files; {allowed}"))
    return mistakes
