"""What a task is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

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
    @abstractmethod
    def product(self) -> Path:
        """A file or folder that exists once the task is done, written last."""

    @abstractmethod
    def do(self, tracked: Follower) -> None:
        """Do it; what an earlier attempt left unfinished is resumed or removed.

        Args:
            tracked: Keeps the trackers up with the folders of runs.
        """

    def done(self) -> bool:
        """Whether nothing is left to do."""
        return self.product.exists()

    @property
    def log(self) -> Path:
        """Where the reason of its last failure is written."""
        return Path(self.run.config.runs_dir) / "errors" / f"{self.key}.txt"

    def tidy(self) -> None:  # noqa: B027 - most tasks leave nothing
        """Remove what a worker that was killed left of a task that is done."""

    def result(self) -> str:
        """What was found, in a few words."""
        return ""

    def __repr__(self) -> str:
        return f"<{self.key}>"
