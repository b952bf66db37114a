"""Launcher for ``hydra/launcher=ray``: each worker of a grid is a task of a Ray cluster.

Ray starts the workers on its nodes and reports when they end; the state of the grid's tasks is in the folder of the runs,
which all nodes share. Ray restarts nothing: that is up to the command that started the workers.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from tinylm_ablate import progress
from tinylm_ablate.errors import UserError, first_line
from tinylm_ablate.provenance import COMMAND

if TYPE_CHECKING:
    import ray

#: Environment variables of the command that its workers inherit.
_CARRIED = (COMMAND, "OMP_WAIT_POLICY", "HYDRA_FULL_ERROR", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")

#: Time for workers to save their state when they are stopped, seconds.
_STOP_SECONDS = 60.0


class RayLauncher(Launcher):
    """Hydra's interface to a Ray cluster.

    Args:
        address: The cluster's ``HOST:PORT``; "auto" is this machine's; None is ``RAY_ADDRESS``, or else a temporary cluster of
            this machine alone.
        cpus: Cores per worker.
        gpus: GPUs per worker.

    Raises:
        ImportError: Ray is not installed.
    """

    def __init__(self, address: str | None, cpus: float, gpus: float) -> None:
        import ray

        self.ray, self.address, self.cpus, self.gpus = ray, address, cpus, gpus
        self.config: DictConfig | None = None
        self.task_function: TaskFunction | None = None
        self.hydra_context: HydraContext | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Store Hydra's objects."""
        self.config, self.hydra_context, self.task_function = config, hydra_context, task_function

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Start a worker for each list of overrides, and wait for all of them.

        Raises:
            UserError: The cluster does not exist, or none of its nodes is large enough.
            RuntimeError: Workers ended without an answer, because their processes or nodes died.
        """
        setup_globals()
        self._connect()
        common = self.ray.put((self.hydra_context, self.config, self.task_function, Singleton.get_state()))
        environment = {name: os.environ[name] for name in _CARRIED if name in os.environ}
        task = self.ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, max_retries=0, runtime_env={"env_vars": environment})(
            _job
        )
        waiting = [
            task.remote(common, list(overrides), number, str(Path.cwd()), list(sys.path))
            for number, overrides in enumerate(job_overrides, initial_job_idx)
        ]
        try:
            return self._results(waiting)
        except KeyboardInterrupt:
            for reference in waiting:
                self.ray.cancel(reference)
            self.ray.wait(waiting, num_returns=len(waiting), timeout=_STOP_SECONDS)
            raise

    def _results(self, references: Sequence[ray.ObjectRef]) -> list[JobReturn]:
        results: dict[Any, JobReturn] = {}
        dead = ""
        waiting = list(references)
        with progress.bar(total=len(waiting), description="ray", unit="worker") as bar:
            while waiting:
                (ended, *_), waiting = self.ray.wait(waiting)
                bar.update(1)
                try:
                    results[ended] = self.ray.get(ended)
                except self.ray.exceptions.RayError as error:
                    dead = dead or first_line(error)
        if dead:
            raise RuntimeError(f"{len(references) - len(results)} of {len(references)} workers ended without an answer: {dead}")
        return [results[reference] for reference in references]

    def _connect(self) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        if not self.ray.is_initialized():
            address = self.address or os.environ.get("RAY_ADDRESS")
            local = {} if address else {"_node_ip_address": "127.0.0.1", "include_dashboard": False}
            handler = signal.getsignal(signal.SIGTERM)  # Ray's own would end the process without an end of the workers
            try:
                self.ray.init(address=address or "local", log_to_driver=False, logging_level="ERROR", **local)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise UserError(
                    f"hydra.launcher.address={address}: no Ray cluster responds there ({first_line(error)}); "
                    "start one with ray start --head"
                ) from None
            finally:
                signal.signal(signal.SIGTERM, handler)
        wanted = {"CPU": self.cpus, "GPU": self.gpus}
        if not any(_holds(node["Resources"], wanted) for node in self.ray.nodes() if node["Alive"]):
            largest = {name: max((node["Resources"].get(name, 0) for node in self.ray.nodes()), default=0) for name in wanted}
            raise UserError(
                f"hydra.launcher.cpus={self.cpus:g} hydra.launcher.gpus={self.gpus:g}: no node of the cluster has that many; "
                f"allowed: up to {largest['CPU']:g} cores and {largest['GPU']:g} GPUs"
            )


def _holds(resources: Mapping[str, float], wanted: Mapping[str, float]) -> bool:
    return all(resources.get(name, 0) >= amount for name, amount in wanted.items())


def _job(
    common: tuple[HydraContext, DictConfig, Callable[[DictConfig], Any], dict[Any, Any]],
    overrides: Sequence[str],
    number: int,
    folder: str,
    path: Sequence[str],
) -> JobReturn:
    """Run one worker, in a process on any node.

    Args:
        common: Hydra's context, the grid's config, the task function, and Hydra's state.
        overrides: Overrides of the worker.
        number: Number of the worker.
        folder: Folder in which the grid was started, for a relative ``runs_dir``.
        path: Python's module search path there.
    """
    sys.path += [entry for entry in path if entry not in sys.path]
    os.chdir(folder)
    context, config, task_function, state = common
    setup_globals()
    Singleton.set_state(state)
    job = context.config_loader.load_sweep_config(config, list(overrides))
    with open_dict(job):
        job.hydra.job.id, job.hydra.job.num = f"{job.hydra.job.name}_{number}", number
    HydraConfig.instance().set_config(job)
    return run_job(
        hydra_context=context,
        config=job,
        task_function=task_function,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
