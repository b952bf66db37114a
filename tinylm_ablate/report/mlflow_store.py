"""Runs and grids from an MLflow store, written as a folder of runs.

The artifacts of a run in the store include all files for a report, and those of a grid its file, so a report from a store
equals one from the folders.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tinylm_ablate import progress
from tinylm_ablate.errors import UserError
from tinylm_ablate.files import FINGERPRINT
from tinylm_ablate.tracking import prepare_environment
from tinylm_ablate.tracking.mlflow_client import KEY, explain, local_artifacts

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


def fetch(uri: str, experiment: str, folder: Path, problems: list[str]) -> None:
    """Write the runs and grids of an experiment to a folder of runs.

    Args:
        uri: ``sqlite:///FILE``, or ``http(s)://`` of a server.
        experiment: Name of the experiment in the store.
        folder: Output folder.
        problems: Receives a line for each run without a record: unfinished, or tracked by an older version.

    Raises:
        UserError: The store cannot be reached, or does not have the experiment.
    """
    prepare_environment()
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    database = Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None
    if database is not None and not database.is_file():
        raise UserError(f"--mlflow {uri}: no such file")
    try:
        client = MlflowClient(tracking_uri=uri)
        found = client.get_experiment_by_name(experiment)
        if found is None:
            names = ", ".join(sorted(known.name for known in client.search_experiments())) or "none"
            raise UserError(f"--experiment {experiment}: is not in {uri}; it has {names}")
        runs = list(_runs(client, found.experiment_id))
        for run in progress.bar(runs, description="reading MLflow", unit="run"):
            _fetch(client, database, run, folder, problems)
    except (MlflowException, OSError) as error:
        raise UserError(explain(error, uri)) from None


def _runs(client: MlflowClient, experiment: str) -> Iterator[Run]:
    """Return all runs, oldest first."""
    token = None
    while True:
        page = client.search_runs([experiment], order_by=["attributes.start_time ASC"], page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _fetch(client: MlflowClient, database: Path | None, run: Run, folder: Path, problems: list[str]) -> None:
    """Copy the artifacts of a run to its folder, or the file of a grid to the folder of grids."""
    key, identity = str(run.data.tags.get(KEY)), run.data.tags.get("identity")
    if not FINGERPRINT.fullmatch(key):
        problems.append(f"run {run.info.run_name}: was not tracked by this version")
        return
    place = folder / key if identity == key else folder / "grids"
    root = local_artifacts(database, run.info.artifact_uri)
    names = list(_names(client, run.info.run_id)) if root is None else [
        path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()
    ]  # fmt: skip
    if identity == key and "metrics.json" not in names:
        problems.append(f"run {run.info.run_name} ({identity}): has no metrics.json in the store")
        return
    for name in names:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        if root is not None:
            shutil.copyfile(root / name, place / name)
        else:
            client.download_artifacts(run.info.run_id, name, str(place))


def _names(client: MlflowClient, run: str, below: str | None = None) -> Iterator[str]:
    """Return the artifacts of a run that belong in a run folder or the folder of grids."""
    for file in client.list_artifacts(run, below):
        if not file.is_dir:
            yield file.path
        elif file.path.startswith("points") or (below is None and file.path == "measures"):
            yield from _names(client, run, file.path)
