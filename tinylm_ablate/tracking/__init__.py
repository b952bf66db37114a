"""Runs in MLflow: a grid is a run, its cells are the runs nested in it. The run's folder stays the truth."""

from tinylm_ablate.tracking.tracker import TrackedRun, Tracker, open_tracker

__all__ = ["TrackedRun", "Tracker", "open_tracker"]
