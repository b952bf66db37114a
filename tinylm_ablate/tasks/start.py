"""The tasks between runs: scores and masks of a parent, and the pass over the losses that a later round draws by."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tinylm_ablate.init.choice import scores_marker
from tinylm_ablate.measure.subject import Subject
from tinylm_ablate.rounds import LOSSES
from tinylm_ablate.settled import Settled
from tinylm_ablate.tasks.task import Task
from tinylm_ablate.tracking import Follower


class ScoresTask(Task):
    """Scores a parent's layers and neurons on text, or trains masks on it."""

    kind = "scores"

    def __init__(self, name: str, run: Settled, needs: Sequence[Task]) -> None:
        super().__init__(scores_marker(run).stem, name, run, needs)

    @property
    def product(self) -> Path:
        return scores_marker(self.run)

    def do(self, tracked: Follower) -> None:
        from tinylm_ablate.init.initial import make_scores

        del tracked
        make_scores(self.run, Subject(self.run).vocabulary)


class LossesTask(Task):
    """Measures the loss of every training batch of a run's first round, for its next round to draw by."""

    kind = "losses"

    @property
    def product(self) -> Path:
        return self.run.folder / LOSSES

    def do(self, tracked: Follower) -> None:
        from tinylm_ablate.rounds.losses import batch_losses

        del tracked
        subject = Subject(self.run)
        batch_losses(self.run, subject.decoder, subject.shards.tokens("train"), self.run.folder)
