"""Imports of commands; processes that tests start are forks of one that has imported this module."""

import gc

gc.disable()  # what is imported never becomes garbage, and looking for some takes a quarter of the time

from tinylm_ablate.tracking.mlflow_client import prepare_environment  # noqa: E402
from tinylm_ablate.train.lean import import_lightning  # noqa: E402

prepare_environment()  # before anything imports MLflow
import_lightning()  # before anything imports Lightning

import hydra.main  # noqa: E402, F401
import mlflow.store.tracking.sqlalchemy_store  # noqa: E402, F401
import pandas  # noqa: E402, F401

import tests.quick_disk  # noqa: E402, F401
import tinylm_ablate.execute.perform  # noqa: E402
import tinylm_ablate.execute.worker  # noqa: E402
import tinylm_ablate.grid.sweeper  # noqa: E402
import tinylm_ablate.modes  # noqa: E402
import tinylm_ablate.rounds.next  # noqa: E402
import tinylm_ablate.tasks.graph  # noqa: E402
import tinylm_ablate.train.fit  # noqa: E402, F401
from tinylm_ablate.grid.compose import compose  # noqa: E402

compose(["arch.depth=2"])  # Hydra's parsers and the schema are ready from then on

gc.freeze()
gc.enable()
