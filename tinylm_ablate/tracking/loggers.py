"""Other trackers through Lightning's loggers: TensorBoard, Weights & Biases and CSV files, from the same folders.

Each run has a folder ``runs_dir/<logger>/<identity>``. It is rewritten from ``curve.jsonl`` when a run starts or resumes, so
that remains of a killed process cannot contradict the run; a marker records the state of the run that was written.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinylm_ablate.files import write_atomic
from tinylm_ablate.secrets import cut
from tinylm_ablate.tracking.folders import grids_of, live
from tinylm_ablate.tracking.snapshot import Snapshot, signature_of, snapshot_of

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

#: Values of ``tracking.loggers``, and the package that each needs.
LOGGERS = {"tensorboard": "tensorboard", "wandb": "wandb", "csv": None}

_MARK = ".signature"


class Live:
    """Loggers of the runs in training.

    Args:
        kinds: Which loggers.
        runs_dir: Folder of the runs.
    """

    def __init__(self, kinds: Sequence[str], runs_dir: Path) -> None:
        self._kinds, self._runs_dir = list(kinds), runs_dir
        self._open: dict[tuple[str, str], tuple[Logger, int]] = {}

    def write(self, running: Iterable[Path], ended: Iterable[Path]) -> None:
        """Write new rows, and the results of runs that have ended."""
        if not self._kinds:
            return
        grids = grids_of(self._runs_dir)
        for folder, end in [*((folder, False) for folder in running), *((folder, True) for folder in ended)]:
            if not (folder / "settled.json").exists():
                continue
            mine = [grid for grid in grids if folder.name in grid.cells]
            snapshot = snapshot_of(folder, mine, () if end else (folder.name,))
            for kind in self._kinds:
                self._write(kind, snapshot, end)

    def _write(self, kind: str, snapshot: Snapshot, end: bool) -> None:
        key, folder = (kind, snapshot.key), self._runs_dir / kind / snapshot.key
        logger, last = self._open.get(key) or (_open(kind, snapshot, folder), -1)
        for tokens, row in snapshot.curve:
            if tokens > last:
                logger.log_metrics(row, tokens)
                last = tokens
        if end:
            for tokens, row in snapshot.points.values():
                if row:
                    logger.log_metrics(row, tokens)
            if snapshot.metrics:
                logger.log_metrics(snapshot.metrics, max(last, 0))
            logger.save()
            logger.finalize("success" if snapshot.status == "FINISHED" else "failed")
            if kind == "wandb":
                logger.experiment.finish(exit_code=int(snapshot.status != "FINISHED"))  # type: ignore[attr-defined]
            write_atomic(folder / _MARK, snapshot.signature)
            self._open.pop(key, None)
        else:
            logger.save()
            self._open[key] = logger, last


def export(kinds: Sequence[str], runs_dir: Path, folders: Iterable[Path]) -> list[str]:
    """Write the loggers' folders of ended runs unless they are up to date; returns problems."""
    grids, held, problems = grids_of(runs_dir), live(runs_dir), []
    for folder in folders:
        if folder.name in held:
            continue
        signature = signature_of(folder, [grid for grid in grids if folder.name in grid.cells], ())
        stale = [kind for kind in kinds if _mark(runs_dir / kind / folder.name) != signature]
        try:
            Live(stale, runs_dir).write([], [folder])
        except Exception as error:  # from any library; the run is complete without it
            problems.append(cut(f"{', '.join(stale)}: could not write {folder.name}: {type(error).__name__}: {error}"))
    return problems


def _open(kind: str, snapshot: Snapshot, folder: Path) -> Logger:
    """Create a logger that writes to ``folder``, after emptying it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    settings: dict[str, Any] = snapshot.parameters | snapshot.tags
    if kind == "wandb":
        import wandb
        from lightning.pytorch.loggers import WandbLogger

        run = wandb.init(
            id=snapshot.key, name=snapshot.name, group=snapshot.tags["experiment"], project=_project(), dir=folder,
            config=settings, reinit="create_new", resume="allow", settings=wandb.Settings(silent=True),
        )  # fmt: skip
        return WandbLogger(experiment=run)
    if kind == "tensorboard":
        from lightning.pytorch.loggers import TensorBoardLogger

        logger: Logger = TensorBoardLogger(folder.parent, name="", version=folder.name)
    else:
        from lightning.pytorch.loggers import CSVLogger

        logger = CSVLogger(folder.parent, name="", version=folder.name)
    logger.log_hyperparams(settings)
    return logger


def _project() -> str:
    return os.environ.get("WANDB_PROJECT", "tinylm_ablate")


def _mark(folder: Path) -> str:
    with contextlib.suppress(OSError):
        return (folder / _MARK).read_text()
    return ""
