"""Runs and grids out of an MLflow store, laid out as the folder of runs that they came from.

A tracked run has the files that a report is made from among its artifacts, and a grid has its description, so a report from a
store says the same as one from the folders.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tinylm_ablate import progress
from tinylm_ablate.errors import UserError
from tinylm_ablate.tracking import prepare_environment
from tinylm_ablate.tracking.folders import RUN_FILES

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_GRID = re.compile(r"[0-9a-f]{16}\.json")


def fetch(uri: str, experiment: str, folder: Path, problems: list[str]) -> None:
    """Write the runs and grids of an experiment to a folder of runs.

    Of several tracked runs with one identity the last that is finished counts.

    Args:
        uri: ``sqlite:///FILE``, or ``http(s)://`` of a server.
        experiment: Name of the experiment in the store.
        folder: Where they go.
        problems: Gets a line for each run without its record, as one that was tracked by an older version or has not ended.

    Raises:
        UserError: The store cannot be reached, or has no such experiment.
    """
    prepare_environment()
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
        raise UserError(f"--mlflow {uri}: there is no such file")
    try:
        client = MlflowClient(tracking_uri=uri)
        found = client.get_experiment_by_name(experiment)
        if found is None:
            names = ", ".join(sorted(known.name for known in client.search_experiments())) or "none"
            raise UserError(f"--experiment {experiment}: is not in {uri}; it has {names}")
        runs = list(_runs(client, found.experiment_id))
        for run in progress.bar(runs, description="reading MLflow", unit="run"):
            _fetch(client, run, folder, problems)
    except (MlflowException, OSError) as error:
        raise UserError(f"--mlflow {uri}: cannot be read: {str(error).strip().splitlines()[0]}") from None


def _runs(client: MlflowClient, experiment: str) -> Iterator[Run]:
    """All of them, the oldest first."""
    token = None
    while True:
        page = client.search_runs([experiment], order_by=["attributes.start_time ASC"], page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _fetch(client: MlflowClient, run: Run, folder: Path, problems: list[str]) -> None:
    names = {file.path for file in client.list_artifacts(run.info.run_id)}
    identity = run.data.tags.get("identity")
    wanted: dict[str, Path] = {}
    if identity is None:
        wanted = {name: folder / "grids" for name in names if _GRID.fullmatch(name)}
    elif re.fullmatch(r"[0-9a-f]+", identity) is None:
        problems.append(f"run {run.info.run_id}: its identity {identity!r} is none")
    elif "metrics.json" in names:
        wanted = {name: folder / identity for name in RUN_FILES if name in names}
    else:
        problems.append(f"run {run.info.run_name} ({identity}): has no metrics.json in the store")
    for name, place in wanted.items():
        place.mkdir(parents=True, exist_ok=True)
        client.download_artifacts(run.info.run_id, name, str(place))
