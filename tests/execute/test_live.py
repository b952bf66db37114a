"""Display of a command's workers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import TINY
from tinylm_ablate import progress
from tinylm_ablate.execute.live import Live
from tinylm_ablate.execute.walk import DONE, Walk
from tinylm_ablate.grid.compose import compose
from tinylm_ablate.leases import Leases
from tinylm_ablate.settle import settle
from tinylm_ablate.tasks.graph import Graph
from tinylm_ablate.tracking import follow


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    run = settle(compose([*TINY, f"runs_dir={tmp_path / 'runs'}"]))
    walk = Walk(Graph([("the run", run)]).tasks, Leases(tmp_path / "runs", 60), follow(run.config.tracking, tmp_path / "runs"))
    live = Live(walk, tmp_path, "order", "off")
    live._begin -= 60  # begun a minute ago
    yield live
    progress.report_to(None)
    progress.begin("")


def test_a_worker_is_shown_with_its_task_from_complete_files(
    live: Live, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_WRITE_SECONDS", 0.0)
    progress.report_to(tmp_path / "order.1.live")
    progress.begin("arch.depth=9 seed=1")
    with progress.bar(total=512, description="train", unit="tok") as bar:
        for _ in range(4):
            bar.update(64)
            assert json.loads((tmp_path / "order.1.live").read_text())["task"] == "arch.depth=9 seed=1"
        (line,) = live.workers()
        assert "50% arch.depth=9 seed=1: train" in line and "tok/s" in line
    assert list(live.workers()) == [] and not list(tmp_path.glob("order*"))


def test_progress_does_not_decrease_between_two_tasks(live: Live, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_WRITE_SECONDS", 0.0)
    progress.report_to(tmp_path / "order.1.live")
    with progress.bar(total=512, description="train", unit="tok") as bar:
        bar.update(256)
        assert "left" in live.whole()
        reached = live._reached
    assert reached >= 256 and "left" in live.whole() and live._reached == reached


def test_without_a_terminal_training_by_the_command_itself_counts(
    live: Live, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_WRITE_SECONDS", 0.0)
    live.mode = "auto"
    with live, progress.bar(total=512, description="train", unit="tok") as bar:
        bar.update(256)
        assert "tokens/s" in live.whole() and live._reached >= 256
    assert progress.bar(total=1).disable and not list(tmp_path.glob("order*"))


def test_what_was_finished_before_does_not_count_as_the_work_of_a_minute(live: Live, tmp_path: Path) -> None:
    runs = [settle(compose([*TINY, f"runs_dir={tmp_path / 'runs'}", f"seed={seed}"])) for seed in range(4)]
    walk = Walk(Graph([(f"{run.config.seed}", run) for run in runs]).runs, live.walk.leases, live.walk.tracked)
    trained = [state for state in walk.order if state.task.kind == "run"]
    for state in walk.order:
        if state not in trained[2:]:
            state.state = DONE
    resumed = Live(walk, tmp_path, "order", "off")
    resumed._begin -= 60
    assert "left" not in resumed.whole()  # nothing done yet
    trained[2].state = DONE
    assert resumed.whole().endswith("tasks done, 0 failed, 60 s left")


def test_no_task_ends_in_zero_seconds(live: Live, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_WRITE_SECONDS", 0.0)
    for state in live.walk.order:
        if state.task.kind != "measure" or "cloze" not in state.task.name:
            state.state = DONE
    (cloze,) = live.walk.waiting()
    assert cloze.task.weight > 100  # tokens, as that of a run
    assert live.whole().startswith("6 of 7 tasks done") and " left" in live.whole()
    progress.report_to(tmp_path / "order.1.live")
    with progress.bar(total=10**6, description="cloze", unit="tok") as bar:  # a task whose weight is far too low
        bar.update(1)
        live._own = {"pid": 1, "what": "cloze", "count": 1.0, "total": 101.0, "rate": 1.0, "unit": "tok"}
        assert live.whole().endswith("100 s left")
        live._own["count"] = 101.0
        bar.update(10**6)
        assert "0 s left" not in "\n".join([*live.workers(), live.whole()])
