"""The task that makes one record of a measure of a finished run, from its kept weights."""

from __future__ import annotations

import time
from pathlib import Path

from tinylm_ablate import progress
from tinylm_ablate.errors import UserError
from tinylm_ablate.files import remove_unfinished
from tinylm_ablate.measure.records import read_record, record_path, write_record
from tinylm_ablate.measure.registry import Request
from tinylm_ablate.measure.subject import Subject
from tinylm_ablate.settled import Settled
from tinylm_ablate.tasks.run import RunTask
from tinylm_ablate.tasks.task import Task
from tinylm_ablate.tracking import Follower

#: The subject of the last measure, whose model and corpus the next measure of the same run uses again.
_last: list[tuple[int, Subject]] = []


class MeasureTask(Task):
    """Measures a run.

    Args:
        of: The task that trains it.
        run: It, as the cell that requests the measure describes it.
        request: What is measured, with which settings.
    """

    kind = "measure"

    def __init__(self, of: RunTask, run: Settled, request: Request) -> None:
        at, share = (f"-{run.at:09d}", f" at {run.at / run.steps:.0%}") if run.at else ("", "")
        which = f" ({request.settings['task']})" if "task" in request.settings else ""  # of a benchmark
        name = f"{request.measure.name}{which} of {of.name}{share}"
        super().__init__(f"{run.identity}-{request.stem}{at}", name, run, [of])
        self.of, self.request = of, request

    @property
    def product(self) -> Path:
        return record_path(self.run.folder, self.request.stem)

    @property
    def log(self) -> Path:
        return self.product.with_suffix(".error.txt")

    @property
    def lost(self) -> bool:
        """Whether the weights that it would read were not kept."""
        trained = self.of.product.exists() and not (self.run.folder / "model").is_dir()
        return self.request.measure.weights and trained and not self.product.exists() and self.of.done()

    def can_start_early(self) -> bool:
        """Whether the model on the way that it measures is there already."""
        return self.run.at > 0 and (self.run.folder / "model").is_dir()

    def do(self, tracked: Follower) -> None:
        if self.lost:
            raise UserError(lost_weights([self]))
        progress.configure(self.run.config.progress)
        begin = time.monotonic()
        result = self.request.measure.measure(_subject(self), self.request.settings)
        seconds = time.monotonic() - begin
        write_record(self.run.folder, self.request.measure.name, self.request.settings, result, seconds)
        self.of.drop_model()
        tracked.done(self.run.folder)

    def tidy(self) -> None:
        super().tidy()
        remove_unfinished(self.product.with_suffix(".parquet"))

    @property
    def weight(self) -> float:
        # Scoring a token costs a third of training on it; a byte is about a third of a token.
        size = self.request.settings.get("max_bytes", 0)
        return max(1.0, 4 * float(size) / 9) if isinstance(size, int) else 1.0

    def result(self) -> str:
        record = read_record(self.run.folder, self.request.stem)
        metrics = record["metrics"] if record else {}
        shown = {name: value for name, value in metrics.items() if name in _HEADLINES}
        return ", ".join(f"{_HEADLINES[name]} {value:.4f}" for name, value in shown.items())


#: The metrics that a worker reports as it measures.
_HEADLINES = {"test/bits_per_byte/all": "bits per byte on test", "test/cloze/all": "cloze"}


def lost_weights(tasks: list[MeasureTask]) -> str:
    """The message for measures whose runs did not keep their weights."""
    names = list(dict.fromkeys(f"{task.run.folder}" for task in tasks))
    kinds = ", ".join(dict.fromkeys(task.request.measure.name for task in tasks))
    more = f" and {len(names) - 1} more runs" if len(names) > 1 else ""
    return (
        f"train.keep_model=false: the weights of {names[0]}{more} were not kept, so {kinds} cannot be measured; "
        "train.keep_model=true trains again and keeps them"
    )


def _subject(task: MeasureTask) -> Subject:
    """The opened run; kept for the next measure of it, and its text and tokenizer for the next run that has the same."""
    model = task.run.folder / "model" / "model.safetensors"
    version = model.stat().st_mtime_ns if model.exists() else 0
    if not _last or _last[0][0] != version or _last[0][1].run is not task.run:
        subject = Subject(task.run)
        if _last:
            subject.share(_last[0][1])
        _last[:] = [(version, subject)]
    return _last[0][1]
