"""MLflow page of a grid: only its runs, the settings that differ as columns, replicates grouped, the loss first.

The format of saved views is internal to MLflow (as of version 3.17); versions with another format show their default page.
"""

from __future__ import annotations

import base64
import json
import time
import zlib
from typing import TYPE_CHECKING, Any

from tinylm_ablate.config import GROUPS
from tinylm_ablate.tracking.folders import Grid
from tinylm_ablate.tracking.snapshot import CURVE, LOSS, SHOWN

if TYPE_CHECKING:
    from tinylm_ablate.tracking.mlflow_client import Store

#: MLflow's tag of a saved view, without its key.
VIEW_TAG = "mlflow.sharedViewState."

#: Charts of a grid's page, in order.
_CHARTS = (LOSS, "test/bits_per_byte/all", "test/cloze/all", f"{CURVE}learning_rate")


def save_view(store: Store, grid: Grid, replicates: bool) -> None:
    """Save the views of a grid under its identity: the cells and, with replicates, their means with standard deviations."""
    settings = [f"{'tags' if key in (*GROUPS, 'arm') else 'params'}.`{key}`" for key in grid.differing if key != "seed"]
    columns = [*settings, "params.`seed`", *(f"metrics.`{name}`" for name in SHOWN)]
    state: dict[str, Any] = _state(grid, "cell", columns)
    if replicates:
        group = {"aggregateFunction": "average", "groupByKeys": [{"mode": "tag", "groupByData": f"arm.{grid.name}"}]}
        state |= {"groupBy": group, "useGroupedValuesInCharts": True}
        spread = [name for shown in SHOWN[:3] for name in (shown, f"{shown}/sd")]
        means = [*settings, "metrics.`seeds`", *(f"metrics.`{name}`" for name in spread)]
        _save(store, grid, f"{grid.identity}-means", f"{grid.label}: mean and sd", _state(grid, "arm", means))
    _save(store, grid, grid.identity, grid.label, state)


def _state(grid: Grid, part: str, columns: list[str]) -> dict[str, Any]:
    section = {"uuid": "first", "name": "Loss and results", "display": True, "isReordered": True, "deleted": False}
    charts = [
        {
            "uuid": name, "type": "LINE" if "curve/" in name else "BAR", "metricKey": name, "metricSectionId": "first",
            "runsCountToCompare": 10, "deleted": False, "isGenerated": False,
            **({"selectedMetricKeys": [name], "xAxisKey": "step", "useGlobalXaxisKey": True} if "curve/" in name else {}),
        }
        for name in _CHARTS
    ]  # fmt: skip
    return {
        "searchFilter": f"tags.`grid.{grid.identity}` = '{part}'",
        "orderByKey": f"metrics.`{SHOWN[0]}`",
        "orderByAsc": True,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "selectedColumns": columns,
        "compareRunCharts": charts,
        "compareRunSections": [section | {"isGenerated": False}],
        "isAccordionReordered": True,  # otherwise, MLflow sorts the sections of other metrics among ours
    }


def _save(store: Store, grid: Grid, key: str, name: str, state: dict[str, Any]) -> None:
    packed = base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()
    created = round(1000 * grid.created)
    view = {"name": name[:80], "createdAt": created, "updatedAt": round(1000 * time.time()), "state": f"deflate;{packed}"}
    store.client.set_experiment_tag(store.experiment_id, f"{VIEW_TAG}{key}", json.dumps(view))
