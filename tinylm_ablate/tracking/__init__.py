"""Runs in MLflow: a grid is a run, its cells are the runs nested in it. The run's folder stays the truth."""

from tinylm_ablate.tracking.store import prepare_environment
from tinylm_ablate.tracking.tracker import RUN_FILES, TrackedRun, Tracker, open_tracker

__all__ = ["RUN_FILES", "TrackedRun", "Tracker", "open_tracker", "prepare_environment"]
