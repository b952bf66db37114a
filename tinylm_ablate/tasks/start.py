"""Tasks between runs: scores and masks of a parent, and batch losses for the draws of a later round."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path

from tinylm_ablate.errors import RunFailed, UserError
from tinylm_ablate.files import remove_unfinished
from tinylm_ablate.init.choice import scored_alike, scores_marker
from tinylm_ablate.measure.subject import Subject
from tinylm_ablate.rounds import LOSSES, UNFINISHED_LOSSES
from tinylm_ablate.settled import Settled
from tinylm_ablate.tasks.task import Task
from tinylm_ablate.tracking import Follower
from tinylm_ablate.train.stack_key import stack_key, stack_size


class ScoresTask(Task):
    """Scores a parent's layers and neurons on text, or learns masks for it."""

    kind = "scores"

    def __init__(self, name: str, run: Settled, needs: Sequence[Task]) -> None:
        super().__init__(scores_marker(run).stem, name, run, needs)

    @property
    def product(self) -> Path:
        return scores_marker(self.run)

    def most_together(self, ready: int) -> int:
        return 1 if self.run.parent is None else stack_size(self.run.parent, ready)

    @property
    def together(self) -> Hashable:
        return scored_alike(self.run), self.run.config.train.device, self.run.config.train.threads

    def do_together(self, tasks: Sequence[Task], tracked: Follower) -> list[Exception | None]:
        from tinylm_ablate.init.initial import make_scores

        del tracked
        vocabulary = Subject(self.run).vocabulary
        try:
            make_scores([task.run for task in tasks], vocabulary)
            return [None] * len(tasks)
        except (UserError, RunFailed) as error:
            if len(tasks) == 1:
                return [error]
        ended: list[Exception | None] = []
        for task in tasks:  # one at a time, so that a parent that cannot be scored does not affect the others
            try:
                make_scores([task.run], vocabulary)
                ended.append(None)
            except (UserError, RunFailed) as error:
                ended.append(error)
        return ended


class LossesTask(Task):
    """Measures the loss of every batch of a run's first round, for the draws of its next round."""

    kind = "losses"

    @property
    def product(self) -> Path:
        return self.run.folder / LOSSES

    def most_together(self, ready: int) -> int:
        return stack_size(self.run, ready)

    @property
    def together(self) -> Hashable:
        return stack_key(self.run)

    def do_together(self, tasks: Sequence[Task], tracked: Follower) -> list[Exception | None]:
        from tinylm_ablate.rounds.losses import Passed, pass_over

        del tracked
        ended: list[Exception | None] = [None] * len(tasks)
        opened = []
        for index, task in enumerate(tasks):
            try:
                subject = Subject(task.run)
                opened.append(Passed(task.run, subject.decoder, subject.shards.tokens("train"), task.run.folder))
            except Exception as error:
                ended[index] = error
        if opened:
            pass_over(opened)
        return ended

    def tidy(self) -> None:
        super().tidy()
        remove_unfinished(self.run.folder / UNFINISHED_LOSSES)
