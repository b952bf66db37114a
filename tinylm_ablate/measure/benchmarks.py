"""Measures with EleutherAI's harness: one record per task or group (``evaluate.tasks``)."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tinylm_ablate.config import EvaluateConfig
from tinylm_ablate.files import fingerprint, sha256_file
from tinylm_ablate.measure.harness import LISTS, Benchmark
from tinylm_ablate.measure.records import read_record, stem, write_record
from tinylm_ablate.measure.subject import Result, Settings, Subject
from tinylm_ablate.settled import Settled

NAME = "benchmarks"

#: Lists of benchmarks over which the paper averages.
AVERAGES = ("ablations", "table8")


class Benchmarks:
    """Scores on tasks of EleutherAI's harness."""

    name = NAME
    weights = True

    def requests(self, run: Settled) -> list[dict[str, Any]]:
        """One per task of ``evaluate.tasks`` or ``evaluate.task_folder``."""
        evaluate = run.config.evaluate
        return settings_of(evaluate) if evaluate.tasks or evaluate.task_folder is not None else []

    def measure(self, subject: Subject, settings: Settings) -> Result:
        """Score the trained model on all questions of a task."""
        task_folder = subject.run.config.evaluate.task_folder
        return benchmark(subject.run.folder / "model", settings, task_folder, subject.device)


def settings_of(evaluate: EvaluateConfig) -> list[dict[str, Any]]:
    """Return the settings of each task in a config.

    Raises:
        ConfigError, UserError: The tasks cannot be used.
    """
    from importlib.metadata import version

    from tinylm_ablate.measure.harness import shipped_fingerprint, task_names

    names = task_names(evaluate)
    folder = Path(evaluate.task_folder).expanduser() if evaluate.task_folder is not None else None
    own = fingerprint([sha256_file(path) for path in sorted(folder.rglob("*")) if path.is_file()]) if folder else None
    shared = {"shots": evaluate.shots, "limit": evaluate.limit, "task_folder": own, "lm_eval": version("lm_eval")}
    return [{"task": name, "shipped": shipped_fingerprint(name), **shared} for name in names]


def averages(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Compute the paper's averages, in percent, from the available scores.

    Args:
        metrics: Flat metrics of a model.

    Returns:
        ``benchmarks/average/ablations`` over ARC-Easy, HellaSwag and C3, and ``benchmarks/average/table8`` over the ten
        benchmarks of Table 8; each only if all of its scores are available.
    """
    found = {}
    for name in AVERAGES:
        scores = [metrics.get(column_of(benchmark)) for benchmark in LISTS[name]]
        known = [100 * float(score) for score in scores if isinstance(score, int | float) and math.isfinite(score)]
        if len(known) == len(scores):
            found[f"{NAME}/average/{name}"] = math.fsum(known) / len(known)
    return found


def column_of(benchmark: Benchmark) -> str:
    """Return the flat name of the paper's metric for a benchmark."""
    return f"{NAME}/{benchmark.task}/{benchmark.metric}"


def benchmark(model_folder: Path, settings: Settings, task_folder: str | None, device: str) -> Result:
    """Score a model on one task or group.

    Args:
        model_folder: A folder in Hugging Face's layout.
        settings: Settings from ``settings_of``.
        task_folder: ``evaluate.task_folder``.
        device: Device to compute on.

    Returns:
        For the task and, for a group, each member: metrics ``benchmarks/<task>/<metric>`` with ``/standard_error``, and
        ``benchmarks/<task>/questions``, ``/shots``, ``/requests`` and ``/cut_requests`` (those longer than the model's
        context). One row per question.

    Raises:
        UserError: The task or the model cannot be used.
    """
    from tinylm_ablate.measure.harness import open_task, score
    from tinylm_ablate.measure.harness_model import HarnessModel

    model = HarnessModel(model_folder, device)
    scores, rows = score(model, open_task(settings["task"], task_folder, settings["shots"]), settings["limit"])
    if cut := model.cut.total():
        print(
            f"note: {cut:,} of {model.requests.total():,} requests were longer than the model's context of "
            f"{model.max_length:,} tokens and were truncated at the beginning",
            file=sys.stderr,
        )
    metrics: dict[str, float] = {}
    for task, requests in model.requests.items():
        metrics |= {f"{NAME}/{task}/requests": requests, f"{NAME}/{task}/cut_requests": model.cut[task]}
    for found in scores:
        place = f"{NAME}/{found.task}"
        if not math.isfinite(found.value):
            print(f"note: omitted: {found.metric} of {found.task} is {found.value}", file=sys.stderr)
            continue
        metrics[f"{place}/{found.metric}"] = found.value
        if found.standard_error is not None:
            metrics[f"{place}/{found.metric}/standard_error"] = found.standard_error
        metrics |= {f"{place}/questions": found.questions} | ({} if found.shots is None else {f"{place}/shots": found.shots})
    return Result(metrics, [{"task": task, **_plain(row)} for task, questions in rows.items() for row in questions])


def benchmark_folder(model: Path, home: Path, evaluate: EvaluateConfig, device: str) -> None:
    """Measure a model on the tasks of a config, unless that is done already.

    Args:
        model: A folder in Hugging Face's layout.
        home: The folder whose ``measures/`` receives the records: its run's, or its own.
        evaluate: The tasks and their settings.
        device: Device to compute on.

    Raises:
        ConfigError, UserError: The tasks or the model cannot be used; earlier scores are kept.
    """
    for settings in settings_of(evaluate):
        if read_record(home, stem(NAME, settings)) is None:
            begin = time.monotonic()
            result = benchmark(model, settings, evaluate.task_folder, device)
            write_record(home, NAME, settings, result, time.monotonic() - begin)


def score_table(models: Sequence[tuple[str, Path]], evaluate: EvaluateConfig) -> str:
    """Format the scores of models on the tasks of a config, one row per metric.

    Args:
        models: Name and folder with ``measures/`` of each model.
        evaluate: The tasks and their settings.
    """
    from tabulate import tabulate

    requests = settings_of(evaluate)
    rows = []
    for name, folder in models:
        whole: dict[str, float] = {}
        for settings in requests:
            record = read_record(folder, stem(NAME, settings))
            whole |= record["metrics"] if record else {}
            for task, metric, value, error, about in _scores(record["metrics"]) if record else []:
                digits = 4 if abs(value) < 100 else 1
                written = f"{value:.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}")
                shots, questions = (about.get(key) for key in ("shots", "questions"))
                rows.append([name, task, metric, written, "" if shots is None else f"{shots:g}", f"{questions or 0:,.0f}"])
        for key, value in averages(whole).items():
            rows.append([name, f"average of {len(LISTS[key.rpartition('/')[2]])}", "percent", f"{value:.2f}", "", ""])
    head = ["model", "task", "metric", "value", "shots", "questions"]
    align = ["left"] * 3 + ["right"] * 3
    if len(models) == 1:
        head, align, rows = head[1:], align[1:], [row[1:] for row in rows]
    table = tabulate(rows, headers=head, tablefmt="pipe", disable_numparse=True, colalign=align if rows else None)
    trial = "" if evaluate.limit is None else f"\n\nAt most {evaluate.limit} questions per task: a trial, not a result."
    return table + trial


def _scores(metrics: Mapping[str, float]) -> list[tuple[str, str, float, float | None, dict[str, float]]]:
    """Task, metric, value, standard error, and other facts about the task."""
    found = []
    for key, value in metrics.items():
        _, _, place = key.partition("/")
        task, slash, metric = place.rpartition("/")
        if not slash or metric in ("standard_error", "questions", "shots", "requests", "cut_requests"):
            continue
        about = {
            name: metrics[f"{NAME}/{task}/{name}"] for name in ("questions", "shots") if f"{NAME}/{task}/{name}" in metrics
        }
        found.append((task, metric, value, metrics.get(f"{key}/standard_error"), about))
    return found


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """Convert the values of a row to one type per column: values other than numbers and text become JSON."""
    return {
        key: value
        if isinstance(value, str | float | int) and key != "target"
        else json.dumps(value, ensure_ascii=False, default=str)
        for key, value in row.items()
    }
