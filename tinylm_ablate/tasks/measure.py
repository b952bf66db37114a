"""Task that measures a finished run from its weights and writes one record."""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence
from functools import cached_property
from pathlib import Path

from tinylm_ablate import progress
from tinylm_ablate.errors import RunFailed, UserError
from tinylm_ablate.files import remove_unfinished
from tinylm_ablate.measure.records import read_record, record_path, write_record
from tinylm_ablate.measure.registry import Request
from tinylm_ablate.measure.subject import Result, StackedMeasure, Subject
from tinylm_ablate.settled import Settled
from tinylm_ablate.tasks.run import RunTask
from tinylm_ablate.tasks.task import Task
from tinylm_ablate.tracking import Follower
from tinylm_ablate.train.stack_key import stack_size

#: Subjects of the last measure, whose models and corpus are reused by the next measure of the same runs.
_last: list[tuple[int, Subject]] = []


class MeasureTask(Task):
    """Measures a run.

    Args:
        of: The task that trains it.
        run: The run, according to the cell that requests the measure.
        request: The measure and its settings.
    """

    kind = "measure"

    def __init__(self, of: RunTask, run: Settled, request: Request) -> None:
        at, share = (f"-{run.at:09d}", f" at {run.at / run.steps:.0%}") if run.at else ("", "")
        which = f" ({request.settings['task']})" if "task" in request.settings else ""  # of a benchmark
        name = f"{request.measure.name}{which} of {of.name}{share}"
        super().__init__(f"{run.identity}-{request.stem}{at}", name, run, [of])
        self.of, self.request = of, request

    @cached_property
    def product(self) -> Path:
        return record_path(self.run.folder, self.request.stem)

    @property
    def log(self) -> Path:
        return self.product.with_suffix(".error.txt")

    @property
    def lost(self) -> bool:
        """Whether the required weights were not kept."""
        if not self.request.measure.weights or self.product.exists() or not self.of.product.exists():
            return False
        return not (self.run.folder / "model").is_dir() and self.of.done()

    def most_together(self, ready: int) -> int:
        return stack_size(self.run, ready) if isinstance(self.request.measure, StackedMeasure) else 1

    @property
    def together(self) -> Hashable:
        run, train = self.run, self.run.config.train
        return self.request.stem, run.shape, run.text, run.vocabulary, train.context_length, train.device, train.threads

    def can_start_early(self) -> bool:
        """Return whether the intermediate model to measure exists already."""
        return self.run.at > 0 and (self.run.folder / "model").is_dir()

    def do_together(self, tasks: Sequence[Task], tracked: Follower) -> list[Exception | None]:
        progress.configure(self.run.config.progress)
        measures = [task for task in tasks if isinstance(task, MeasureTask)]
        begin = time.monotonic()
        ended: dict[str, Exception] = {task.key: UserError(lost_weights([task])) for task in measures if task.lost}
        subjects = _subjects([task for task in measures if task.key not in ended])
        if len(measures) > 1:
            for task in list(subjects):
                try:
                    subjects[task].decoder  # noqa: B018 - opens the weights, which may be damaged
                except Exception as error:
                    ended[task.key] = error
                    del subjects[task]
        results = self._results(list(subjects.values())) if subjects else []
        seconds = (time.monotonic() - begin) / max(1, len(results))
        for task, result in zip(subjects, results, strict=True):
            try:
                write_record(task.run.folder, self.request.measure.name, self.request.settings, result, seconds)
            except RunFailed as error:  # of a run that diverged, which must not affect the others
                ended[task.key] = error
                continue
            task.of.drop_model()
            tracked.done(task.run.folder)
        return [ended.get(task.key) for task in measures]

    def _results(self, subjects: Sequence[Subject]) -> list[Result]:
        """Measure some runs; if they do not fit in GPU memory together, half of them at a time."""
        import torch

        measure, settings = self.request.measure, self.request.settings
        if len(subjects) == 1 or not isinstance(measure, StackedMeasure):
            return [measure.measure(subject, settings) for subject in subjects]
        try:
            return measure.measure_together(subjects, settings)
        except torch.OutOfMemoryError:
            pass
        half = len(subjects) // 2
        return [*self._results(subjects[:half]), *self._results(subjects[half:])]

    def tidy(self) -> None:
        remove_unfinished(self.product, self.product.with_suffix(".parquet"))

    @property
    def weight(self) -> float:
        # Scoring a token costs a third of training on it; a byte is about a third of a token. Texts have two languages;
        # those of bits per byte also two splits, and a character of the cloze has two bytes.
        keys = ("max_bytes", "questions", "context", "continuation")
        found = (self.request.settings.get(key) for key in keys)  # a user's own may have other types
        size, questions, context, continuation = (value if isinstance(value, int) else 0 for value in found)
        return max(1.0, 4 / 9 * (size + questions * (context + 4 * continuation)))

    def result(self) -> str:
        record = read_record(self.run.folder, self.request.stem)
        metrics = record["metrics"] if record else {}
        shown = {name: value for name, value in metrics.items() if name in _HEADLINES}
        return ", ".join(f"{_HEADLINES[name]} {value:.4f}" for name, value in shown.items())


#: Metrics that a worker reports after measuring.
_HEADLINES = {"test/bits_per_byte/all": "bits per byte on test", "test/cloze/all": "cloze"}


def lost_weights(tasks: list[MeasureTask]) -> str:
    """Return the message for measures whose runs did not keep their weights."""
    names = list(dict.fromkeys(f"{task.run.folder}" for task in tasks))
    kinds = ", ".join(dict.fromkeys(task.request.measure.name for task in tasks))
    more = f" and {len(names) - 1} more runs" if len(names) > 1 else ""
    return (
        f"train.keep_model=false: the weights of {names[0]}{more} were not kept, so {kinds} cannot be measured; "
        "train.keep_model=true trains again and keeps them"
    )


def _subjects(tasks: Sequence[MeasureTask]) -> dict[MeasureTask, Subject]:
    """Open runs; they are kept for the next measure, and corpus and tokenizer for the next runs with the same ones."""
    known = {(version, id(subject.run)): subject for version, subject in _last}
    before = next((subject for _, subject in _last), None)
    found = {}
    for task in tasks:
        model = task.run.folder / "model" / "model.safetensors"
        version = model.stat().st_mtime_ns if model.exists() else 0
        subject = known.get((version, id(task.run)))
        if subject is None:
            subject = Subject(task.run)
            if before is not None:
                subject.share(before)
        found[task] = (version, subject)
    _last[:] = found.values()
    return {task: subject for task, (_, subject) in found.items()}
