"""How many runs of a grid go at once on this machine, and with how many threads each.

A small model keeps few threads busy: two runs of one thread each are done sooner than the same two with both threads, one after
another. Which division of the cores trains most tokens a second is measured, on the model of a run in the middle of the grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from tinylm_ablate.arch.shapes import flops_per_token
from tinylm_ablate.errors import UserError
from tinylm_ablate.hardware import cores, pick_device

if TYPE_CHECKING:
    from tinylm_ablate.settle import Settled


def divide(runs: Sequence[Settled], workers: int | str) -> tuple[int, int | None]:
    """Runs at once, and threads of each.

    Args:
        runs: What is to be trained.
        workers: ``grid.workers``; "auto" measures for a second or two. A GPU, or a run that has several devices or a number of
            threads of its own, is left one at a time by "auto".

    Returns:
        The number of runs at once; and the threads, or None where ``train.threads`` says them.
    """
    own = [run.config.train for run in runs]
    if workers == "auto":
        if any(train.devices > 1 or pick_device(train.device) != "cpu" or train.threads != "auto" for train in own):
            return 1, None
        threads = _best_threads(sorted(runs, key=lambda run: flops_per_token(run.shape, 1)["training"])[len(runs) // 2])
        most = max(1, cores() // threads)
    else:
        most = int(workers)
    # Fewer runs than places: each has more threads.
    at_once = max(1, min(most, len(runs)))
    if at_once == 1 or any(train.threads != "auto" for train in own):
        return at_once, None
    return at_once, max(1, cores() // at_once)


def _best_threads(run: Settled) -> int:
    """The number of threads with which the machine as a whole trains most tokens a second."""
    from tinylm_ablate.grid.calibrate import speed

    train, optimizer = run.config.train, run.config.optimizer
    length, precision = train.context_length, run.precision
    options = [threads for threads in range(1, cores() + 1) if cores() % threads == 0]
    rates = {t: (cores() // t) / speed(run.shape, length, run.micro_batch, precision, t, optimizer).training for t in options}
    return max(options, key=rates.__getitem__)


def parallel(config: DictConfig, workers: int) -> DictConfig:
    """The config with Hydra's joblib launcher in the place of the one that runs a job after another.

    Raises:
        UserError: The launcher is not installed.
    """
    try:
        from hydra_plugins.hydra_joblib_launcher.config import JobLibLauncherConf
    except ImportError as error:
        install = "pip install 'tinylm-ablate[joblib]'"
        raise UserError(f"grid.workers: several runs at once need Hydra's joblib launcher; {install}") from error
    changed = config.copy()
    OmegaConf.set_readonly(changed.hydra, False)
    changed.hydra.launcher = OmegaConf.structured(JobLibLauncherConf(n_jobs=workers, pre_dispatch=str(workers), batch_size="1"))
    return changed
