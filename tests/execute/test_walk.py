"""The order in which a worker does the works of a grid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import filelock
from tinylm_ablate.execute.attempts import Outcome
from tinylm_ablate.grid.work import Walk, Work

from tinylm_ablate.config import Config
from tinylm_ablate.data.once import locked
from tinylm_ablate.errors import Busy
from tinylm_ablate.settle import settle


def test_what_another_process_makes_is_waited_for_only_when_nothing_else_is_left(
    compose: Callable[[list[str]], Config], tmp_path: Path
) -> None:
    works = [
        Work(name, name, settle(compose([f"seed={seed}", f"runs_dir={tmp_path}"])), [])
        for seed, name in enumerate(("scored", "plain", "plain too"))
    ]
    other = filelock.FileLock(tmp_path / "scores.lock")
    other.acquire()
    order: list[str] = []

    def launch(ready: Sequence[Work], _: int) -> list[Outcome]:
        (work,) = ready
        order.append(work.name)
        if work.name == "plain too":
            other.release()
        elif work.name == "scored":
            try:
                with locked(tmp_path / "scores", "the scores", later=True):
                    pass
            except Busy as busy:
                return [Outcome("busy", str(busy))]
        return [Outcome("done")]

    Walk(works, launch, together=False, stop=False).go()
    assert order == ["scored", "plain", "plain too", "scored"]
    assert [work.state for work in works] == ["done"] * 3
