"""``mode=evaluate``: finished models on the tasks of EleutherAI's harness, and the table of their scores."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tinylm_ablate.hardware import pick_device
from tinylm_ablate.report.markdown import table

if TYPE_CHECKING:
    from tinylm_ablate.config import Config
    from tinylm_ablate.evaluate.harness import Score, Tasks


def show_scores(models: Sequence[tuple[str, Path]], config: Config) -> None:
    """Score each model, keep its scores in its folder, and print one table.

    Args:
        models: Names for the table, and folders in Hugging Face's layout; one within a run's folder is kept with the run.
        config: ``evaluate``, ``train.device`` and ``train.threads`` are used.

    Raises:
        ConfigError, UserError: The tasks or a model cannot be used; what was scored until then is kept.
    """
    import torch

    from tinylm_ablate.evaluate.harness import keep, open_tasks, score

    settings = config.evaluate
    tasks = open_tasks(settings)
    from tinylm_ablate.evaluate.harness_model import HarnessModel

    if tasks.left_out:
        print(f"note: left out: {tasks.left_out}", file=sys.stderr)
    if not isinstance(config.train.threads, str):
        torch.set_num_threads(config.train.threads)
    found = []
    for name, folder in models:
        model = HarnessModel(folder, pick_device(config.train.device))
        scores, rows = score(model, tasks, settings.limit)
        path = keep(_home(folder), scores, rows, model, settings.limit)
        found.append((name, scores))
        print(f"kept in {path}", file=sys.stderr)
        if cut := model.cut.total():
            print(
                f"note: {cut:,} of {model.asked.total():,} requests were longer than the model's context of "
                f"{model.max_length:,} tokens and lost their beginning",
                file=sys.stderr,
            )
    print(_table(found, tasks))
    if settings.limit is not None:
        print(f"\nAt most {settings.limit} questions a task: a trial, not a result.")


def _home(folder: Path) -> Path:
    """The run that a model belongs to, or its own folder."""
    return folder.parent if folder.name == "model" and (folder.parent / "metrics.json").is_file() else folder


def _table(found: Sequence[tuple[str, Sequence[Score]]], tasks: Tasks) -> str:
    """What was asked for, a line a metric; of a group without a score of its own, its tasks."""
    shown = set(tasks.names)
    scored = {score.task for _, scores in found for score in scores}
    for name in tasks.names:
        if name not in scored:
            entry = tasks.loaded["groups"].get(name)
            shown |= {task.task_name for task in entry.get_all_tasks()} if entry else scored - tasks.loaded["groups"].keys()
    several = len(found) > 1
    rows = [
        [*([name] if several else []), score.task, score.metric, _written(score), str(score.shots), f"{score.questions:,}"]
        for name, scores in found
        for score in scores
        if score.task in shown
    ]
    head = [*(["model"] if several else []), "task", "metric", "value", "shots", "questions"]
    return table(head, rows, words=len(head) - 3)


def _written(score: Score) -> str:
    digits = 4 if abs(score.value) < 100 else 1
    error = "" if score.standard_error is None else f" ± {score.standard_error:.{digits}f}"
    return f"{score.value:.{digits}f}{error}"
