"""Interface of a task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import ClassVar

from tinylm_ablate.files import remove_unfinished
from tinylm_ablate.settled import Settled
from tinylm_ablate.tracking import Follower


class Task(ABC):
    """A unit of work that one worker does once, and whose product is a file or folder.

    Attributes:
        kind: Its kind, as one word.
        key: Its name among all tasks of a folder of runs, also used for its lease.
        name: Its name for people.
        run: Its run.
        needs: Tasks that must be done first.
    """

    kind: ClassVar[str]

    def __init__(self, identity: str, name: str, run: Settled, needs: Sequence[Task] = ()) -> None:
        self.key, self.name, self.run, self.needs = f"{self.kind}-{identity}", name, run, list(needs)

    @property
    def plural(self) -> str:
        """Plural name of this kind of task."""
        return self.kind if self.kind.endswith("s") else f"{self.kind}s"

    @property
    @abstractmethod
    def product(self) -> Path:
        """File or folder that exists once the task is done; written last."""

    def do(self, tracked: Follower) -> None:
        """Do the task; remains of an earlier attempt are resumed or removed.

        Args:
            tracked: Syncs the trackers with the folders of runs.
        """
        (error,) = self.do_together([self], tracked)
        if error is not None:
            raise error

    def most_together(self, ready: int) -> int:
        """Return how many of ``ready`` tasks with equal ``together`` one worker does as one program."""
        del ready
        return 1

    @property
    def together(self) -> Hashable:
        """Key that tasks must share to be done as one program."""
        return self.key

    def do_together(self, tasks: Sequence[Task], tracked: Follower) -> list[Exception | None]:
        """Do tasks, including this one, as one program; returns the exception that ended each, or None on success.

        Tasks that are always done alone implement ``do`` instead.
        """
        raise NotImplementedError

    def can_start_early(self) -> bool:
        """Return whether it can start before its needs are done."""
        return False

    def done(self) -> bool:
        """Return whether it is done."""
        return self.product.exists()

    @property
    def log(self) -> Path:
        """File with the reason of its last failure."""
        return Path(self.run.config.runs_dir) / "errors" / f"{self.key}.txt"

    def tidy(self) -> None:
        """Remove files that killed workers left of this task, which is done."""
        remove_unfinished(self.product)

    @property
    def weight(self) -> float:
        """Approximate amount of work, in training tokens."""
        return 1.0

    def result(self) -> str:
        """Summary of the result, in a few words."""
        return ""

    def __repr__(self) -> str:
        return f"<{self.key}>"
