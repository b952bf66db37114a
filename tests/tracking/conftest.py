"""A real sqlite store, made once and copied for each test, since making one takes seconds."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tinylm_ablate.config import TrackingConfig
from tinylm_ablate.tracking.store import Store
from tinylm_ablate.tracking.tracker import MlflowTracker

EXPERIMENT = "tests"


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An sqlite file with MLflow's tables."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    Store(f"sqlite:///{path}", None, "unused")._connect()
    return path


@pytest.fixture
def runs_dir(tmp_path: Path, empty_database: Path) -> Path:
    """A folder of runs with a store in it."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return tmp_path


class FailingStore(Store):
    """A store that can be away: then every attempt to reach it fails, as it does when a server is down."""

    away = False

    def _connect(self):
        if self.away:
            raise ConnectionError("the store is away")
        return super()._connect()


@pytest.fixture
def store(runs_dir: Path) -> FailingStore:
    return FailingStore(f"sqlite:///{runs_dir / 'mlflow.db'}", (runs_dir / "mlartifacts").as_uri(), EXPERIMENT)


@pytest.fixture
def tracker(store: FailingStore, runs_dir: Path) -> MlflowTracker:
    """A tracker that sends nothing by itself within a test: only when a run is started, finished, or closed."""
    return MlflowTracker(store, runs_dir, flush_seconds=1000)


@pytest.fixture
def client(store: FailingStore):
    """MLflow's own view of the store."""
    connected = Store(store.uri, store.artifacts, store.experiment)
    return connected._connect()[0]


@pytest.fixture
def settings() -> TrackingConfig:
    return TrackingConfig(
        kind="mlflow", uri=None, artifacts=None, experiment=EXPERIMENT, parent=None, run_name=None, flush_seconds=1000
    )


@pytest.fixture
def folder(runs_dir: Path) -> Path:
    """The folder of one run."""
    path = runs_dir / "0123456789abcdef"
    path.mkdir()
    return path
