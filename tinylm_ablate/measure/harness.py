"""Tasks of EleutherAI's harness for a finished model: index, scoring and records.

The harness (the extra ``lm-eval``) has the tasks, their prompts and their metrics; their texts are downloaded from the Hugging
Face hub on first use. A folder of your own tasks in its YAML format needs no network.
"""

from __future__ import annotations

import difflib
import importlib.util
import logging
import math
import random
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinylm_ablate import progress
from tinylm_ablate.errors import ConfigError, UserError, one_line
from tinylm_ablate.files import fingerprint, sha256_file

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

    from tinylm_ablate.config import EvaluateConfig
    from tinylm_ablate.measure.harness_model import HarnessModel

#: Resamples for the standard errors of metrics that are not means, such as perplexities.
_BOOTSTRAP = 1000

#: Seeds for the examples before a question: the harness's defaults.
_SEED = 1234


@dataclass(frozen=True)
class Benchmark:
    """A benchmark of the paper.

    Attributes:
        name: Name in the paper.
        task: The task.
        column: Its column in the paper's tables.
        folder: Its folder in the harness; None if the task is part of this package.
        metric: The paper's metric: an accuracy in percent, or ROUGE-1 of summaries.
    """

    name: str
    task: str
    column: str
    folder: str | None
    metric: str = "acc"


_C3 = Benchmark("C3", "c3", "c3", None, "acc_norm")

#: Lists of tasks for ``evaluate.tasks``: the ten of Figure 1 and Table 8, and the three of the ablations.
LISTS: dict[str, tuple[Benchmark, ...]] = {
    "table8": (
        Benchmark("C-Eval", "ceval-valid", "c_eval", "ceval"),
        Benchmark("CMMLU", "cmmlu", "cmmlu", "cmmlu"),
        Benchmark("MMLU", "mmlu", "mmlu", "mmlu"),
        Benchmark("AGIEval", "agieval", "agi_eval", "agieval"),
        Benchmark("BoolQ", "boolq", "boolq", "super_glue/boolq"),
        Benchmark("AX-b", "ax_b", "ax_b", None),
        Benchmark("PIQA", "piqa", "piqa", "piqa", "acc_norm"),
        Benchmark("EPRSTMT", "eprstmt", "eprstmt", None),
        Benchmark("XSum", "xsum", "xsum", None, "rouge1"),
        _C3,
    ),
    "ablations": (
        Benchmark("ARC-Easy", "arc_easy", "arc_easy", "arc", "acc_norm"),
        Benchmark("HellaSwag", "hellaswag", "hellaswag", "hellaswag", "acc_norm"),
        _C3,
    ),
}
LISTS["paper"] = tuple(dict.fromkeys([*LISTS["table8"], *LISTS["ablations"]]))

#: Tasks that the harness does not have.
_SHIPPED = Path(__file__).parent / "paper_tasks"


@dataclass(frozen=True)
class Score:
    """One metric of one task.

    Attributes:
        task: The task or group.
        metric: The harness's name, followed by a comma and its filter unless that is "none".
        value: Its value, in the harness's own unit.
        standard_error: The harness's standard error, if any.
        shots: Examples before each question.
        questions: Number of questions.
    """

    task: str
    metric: str
    value: float
    standard_error: float | None
    shots: int | None
    questions: int


@dataclass(frozen=True)
class Tasks:
    """A loaded task, or the tasks of a group.

    Attributes:
        name: The task or group.
        loaded: Input for the harness's ``evaluate``.
    """

    name: str
    loaded: dict[str, dict[str, Any]]


def task_names(settings: EvaluateConfig) -> list[str]:
    """Return the tasks in a config, with lists expanded.

    Args:
        settings: ``tasks`` and ``task_folder`` are used. Without tasks, all tasks in the folder.

    Raises:
        ConfigError: There is no task, an unknown task, or a folder without tasks.
        UserError: The harness is not installed.
    """
    if not settings.tasks and settings.task_folder is None:
        raise ConfigError(
            [
                "evaluate.tasks=[]: allowed: tasks of the harness or of evaluate.task_folder, as in "
                f"evaluate.tasks=[piqa,arc_easy], and the lists {' and '.join(LISTS)}"
            ]
        )
    return _task_names(tuple(settings.tasks), settings.task_folder)


@cache
def _task_names(tasks: tuple[str, ...], wanted: str | None) -> list[str]:
    _check_installed()
    folder = _task_folder(wanted)
    _follow_our_settings()
    named = [task for name in tasks for task in ([benchmark.task for benchmark in LISTS[name]] if name in LISTS else [name])]
    names = list(dict.fromkeys(named))
    manager = _manager(tuple(names), folder)
    if not names:
        assert folder is not None
        names = [name for name in manager.all_subtasks if _own(manager, name, folder) or _data(name, folder)]
        if not names:
            raise ConfigError(
                [
                    f"evaluate.task_folder={folder}: has no tasks; allowed: .yaml files with a line 'task: NAME', and the "
                    f"data of {', '.join(sorted(path.stem for path in _SHIPPED.glob('*.yaml')))} as NAME.jsonl"
                ]
            )
    mistakes = [
        f"evaluate.tasks={name}: no such task{_nearest(name, manager)}; allowed: tasks, groups and tags of the "
        f"harness, tasks of evaluate.task_folder, and the lists {', '.join(LISTS)}"
        for name in names
        if name not in manager.task_index
    ]
    if mistakes:
        raise ConfigError(mistakes)
    return names


def shipped_fingerprint(name: str) -> str | None:
    """Return a fingerprint of the file of a task that is part of this package; None for any other."""
    path = _SHIPPED / f"{name}.yaml"
    return fingerprint(sha256_file(path)) if path.is_file() else None


def _check_installed() -> None:
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError(
            "evaluate.tasks: EleutherAI's harness is not installed; pip install 'tinylm-ablate[lm-eval]', "
            "or in a checkout: pip install -c constraints.txt -e '.[lm-eval]'"
        )


def open_task(name: str, task_folder: str | None, shots: int | None) -> Tasks:
    """Load one task or group.

    Args:
        name: One of ``task_names``.
        task_folder: ``evaluate.task_folder``.
        shots: Examples before each question; None is the task's default.

    Raises:
        UserError: It cannot be loaded (its YAML is wrong, or its data are not available).
    """
    _check_installed()
    folder = _task_folder(task_folder)
    _follow_our_settings()
    loaded: dict[str, dict[str, Any]] = {"tasks": {}, "groups": {}, "group_map": {}}
    for part, found in _load(_manager((name,), folder), name, folder).items():
        loaded[part] |= found
    for task in loaded["tasks"].values():
        if shots is not None and task.get_config("num_fewshot") != 0:
            task.set_config(key="num_fewshot", value=shots)
        elif task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=_SEED)
    return Tasks(name, loaded)


def score(model: HarnessModel, tasks: Tasks, limit: int | None) -> tuple[list[Score], dict[str, list[dict[str, Any]]]]:
    """Score a model on all questions.

    Args:
        model: The model.
        tasks: The tasks.
        limit: Maximum questions per task; None for all.

    Returns:
        Scores of every task and group, and for each task its rows: document, target, answer and metrics of each question.

    Raises:
        UserError: The harness fails on a task.
    """
    import numpy as np
    from lm_eval.evaluator import evaluate

    random.seed(_SEED)
    np.random.seed(_SEED)
    try:
        found: Mapping[str, Any] = evaluate(model, tasks.loaded, limit=limit, bootstrap_iters=_BOOTSTRAP, log_samples=True)
    except UserError:
        raise
    except Exception as error:  # templates, metrics and filters of a task are third-party code
        raise UserError(
            f"evaluate.tasks=[{tasks.name}]: the harness stopped ({one_line(error)}); HYDRA_FULL_ERROR=1 shows where"
        ) from error
    rows = {name: [_row(sample) for sample in samples] for name, samples in found["samples"].items()}
    counts = {name: int(number["effective"]) for name, number in found["n-samples"].items()}
    for name, group in tasks.loaded["groups"].items():
        counts[name] = sum(counts[task.task_name] for task in group.get_all_tasks())
    scores = [
        Score(name, metric, value, error, found["n-shot"].get(name), counts[name])
        for name, metrics in found["results"].items()
        for metric, value, error in _metrics(metrics)
    ]
    return scores, rows


def _task_folder(wanted: str | None) -> Path | None:
    if wanted is None:
        return None
    folder = Path(wanted).expanduser().resolve()
    if not folder.is_dir():
        raise ConfigError([f"evaluate.task_folder={wanted}: no such folder; allowed: one with tasks as .yaml files"])
    return folder


def _follow_our_settings() -> None:
    """Show the harness's progress bars and messages in our style."""
    import datasets
    import lm_eval.api.metrics
    import lm_eval.api.task
    from tqdm import tqdm

    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it logs missing defaults for every file of a task
    quiet = not progress.shown()
    lm_eval.api.task.tqdm = partial(tqdm, disable=quiet, leave=False)
    progress.shorten_retries()
    if quiet:
        datasets.disable_progress_bars()


@cache
def _manager(wanted: tuple[str, ...], folder: Path | None) -> TaskManager:
    """Return the harness's index of as few folders as necessary: reading all of them takes half a minute."""
    import lm_eval.tasks

    root = Path(lm_eval.tasks.__file__).parent
    ours = [_SHIPPED, *([] if folder is None else [folder])]
    near = [root / benchmark.folder for benchmark in LISTS["paper"] if benchmark.folder is not None]
    for folders in (ours, [*near, *ours]):
        manager = lm_eval.tasks.TaskManager(include_path=folders, include_defaults=False)
        if all(_has(manager, name) for name in wanted):
            return manager
    print("note: the harness reads the descriptions of all its tasks", file=sys.stderr)
    return lm_eval.tasks.TaskManager(include_path=ours)


def _own(manager: TaskManager, name: str, folder: Path | None) -> bool:
    """Return whether a task is in the user's folder."""
    return folder is not None and folder in Path(manager.task_index[name].yaml_path or "").parents


def _data(name: str, folder: Path | None) -> Path | None:
    """Return the user's data for a task that is part of this package."""
    if folder is None or not (_SHIPPED / f"{name}.yaml").is_file():
        return None
    return path if (path := folder / f"{name}.jsonl").is_file() else None


def _has(manager: TaskManager, name: str) -> bool:
    """Return whether an index has a task, including all members of a group."""
    entry = manager.task_index.get(name)
    if entry is None:
        return False
    members = (entry.cfg or {}).get("task")
    return not isinstance(members, list) or all(_has(manager, member) for member in members if isinstance(member, str))


def _nearest(name: str, manager: TaskManager) -> str:
    near = difflib.get_close_matches(name, [*manager.all_tasks, *LISTS], n=3)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _load(manager: TaskManager, name: str, folder: Path | None) -> dict[str, dict[str, Any]]:
    own, data = _own(manager, name, folder), _data(name, folder)
    entry = manager.task_index[name]
    try:
        loaded: dict[str, dict[str, Any]] = manager.load([name if own or data is None else _with_data(entry.yaml_path, data)])
    except Exception as error:  # any exception of third-party YAML, templates and data sets
        if own:
            hint = f"see {entry.yaml_path}; data_files are relative to the current folder"
        elif data is not None:
            hint = f"see {data}; its rows must have the fields in {entry.yaml_path}"
        else:
            hint = "its texts are downloaded from the Hugging Face hub on first use; evaluate.task_folder needs no network"
            hint += f": save them there as {name}.jsonl" if entry.yaml_path and _SHIPPED in entry.yaml_path.parents else ""
        raise UserError(f"evaluate.tasks={name}: cannot be loaded ({one_line(error)}); {hint}") from error
    return loaded


def _with_data(path: Path, data: Path) -> dict[str, Any]:
    """Return a packaged task with the user's data instead of those on the hub."""
    from lm_eval.tasks._yaml_loader import load_yaml

    task: dict[str, Any] = load_yaml(path)
    files = {"dataset_path": "json", "dataset_name": None, "dataset_kwargs": {"data_files": {task["test_split"]: str(data)}}}
    return task | files


def _metrics(found: Mapping[str, Any]) -> list[tuple[str, float, float | None]]:
    """Return the results of a task: metric, value and standard error."""
    result = []
    for key, value in found.items():
        metric, comma, kind = key.partition(",")
        if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
            continue
        error = found.get(f"{metric}_stderr,{kind}")
        known = float(error) if isinstance(error, float | int) and math.isfinite(error) else None
        result.append((metric if kind == "none" else key, float(value), known))
    return result


def _row(sample: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record of a question, without its text, which is in the data set under ``doc_hash``."""
    kept = {"doc_id": sample["doc_id"], "doc_hash": sample["doc_hash"], "filter": sample["filter"]}
    kept |= {"target": sample["target"], "answer": sample["filtered_resps"]}
    return kept | {metric: sample[metric] for metric in sample["metrics"]}
