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
    """A piece of work that is done once, by whichever worker takes it, and whose product is a file or folder.

    Attributes:
        kind: What it makes, as one word.
        key: Names it among all tasks of a folder of runs; also the name of its lease.
        name: What people call it.
        run: The run that it is for.
        needs: Tasks that must be done before it can start.
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
        """A file or folder that exists once the task is done, written last."""

    def do(self, tracked: Follower) -> None:
        """Do it; what an earlier attempt left unfinished is resumed or removed.

        Args:
            tracked: Keeps the trackers up with the folders of runs.
        """
        (error,) = self.do_together([self], tracked)
        if error is not None:
            raise error

    def most_together(self, ready: int) -> int:
        """Return how many of ``ready`` tasks with an equal ``together`` one worker does as one program."""
        del ready
        return 1

    @property
    def together(self) -> Hashable:
        """Key that tasks must share to be done as one program."""
        return self.key

    def do_together(self, tasks: Sequence[Task], tracked: Follower) -> list[Exception | None]:
        """Do tasks, this one among them, as one program; returns what ended each, or None where it is done.

        Tasks that are always done alone have ``do`` instead.
        """
        raise NotImplementedError

    def can_start_early(self) -> bool:
        """Return whether it can start before the tasks that it needs are done."""
        return False

    def done(self) -> bool:
        """Return whether nothing is left to do."""
        return self.product.exists()

    @property
    def log(self) -> Path:
        """File of the reason of its last failure."""
        return Path(self.run.config.runs_dir) / "errors" / f"{self.key}.txt"

    def tidy(self) -> None:
        """Remove what workers that were killed left of this task, which is done."""
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
