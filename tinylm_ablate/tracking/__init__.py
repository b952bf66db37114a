"""Synchronization of trackers with the folders of the runs, which remain the source of truth."""

from tinylm_ablate.tracking.follow import Follower, follow
from tinylm_ablate.tracking.hook import on_end
from tinylm_ablate.tracking.mlflow_client import prepare_environment
from tinylm_ablate.tracking.sync import SyncReport, sync

__all__ = ["Follower", "SyncReport", "follow", "on_end", "prepare_environment", "sync"]
