"""A study that outlives its processes, and the values that its pruner reads."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from tinylm_ablate.config import SearchConfig
from tinylm_ablate.errors import ConfigError, UserError
from tinylm_ablate.grid.objectives import Objective
from tinylm_ablate.grid.space import parse_space
from tinylm_ablate.grid.study import DONE, FAILED, POINTS, REJECTED, Study, Watch


class Place:
    """Studies of one space in one folder."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.axes = parse_space(None, ["x=interval(0,1)", "n=range(1,9)", "c=a,b"])[1]
        self.search = SearchConfig(
            **{"name": None, "trials": 6, "sampler": "tpe", "pruner": "none", "seed": 0, **settings}  # type: ignore[arg-type]
        )

    def open(self, asked: dict[str, Any] | None = None, objectives: int = 1) -> Study:
        names = [Objective("validation/bits_per_byte/all", False), Objective("test/cloze/all", True)][:objectives]
        return Study(self.folder, "one", self.axes, names, self.search, asked or {"space": "x"})

    def trials(self) -> list[optuna.trial.FrozenTrial]:
        storage = f"sqlite:///{self.folder / 'one.db'}"
        return optuna.load_study(study_name="one", storage=storage).trials


def quality(params: dict[str, Any]) -> float:
    return float((params["x"] - 0.3) ** 2 + 0.01 * params["n"] + (params["c"] == "b"))


def walk(study: Study, stop: int | None = None) -> None:
    for number in itertools.count():
        if number == stop or (trial := study.ask()) is None:
            return
        study.tell(trial, DONE, [quality(trial.params)], identity=str(trial.number))


def test_a_resumed_study_makes_the_same_proposals(tmp_path: Path) -> None:
    whole, parts = Place(tmp_path / "whole", trials=16), Place(tmp_path / "parts", trials=16)
    walk(whole.open())
    for stop in (3, 1, 9, None):
        walk(parts.open(), stop)
    one, other = whole.open().results(), parts.open().results()
    assert [result.place for result in one] == [result.place for result in other]
    assert len({str(result.place) for result in one}) == 16
    walk(whole.open())
    assert len(whole.trials()) == 16


def test_a_trial_whose_process_was_killed_is_repeated(tmp_path: Path) -> None:
    search = Place(tmp_path / "killed")
    walk(search.open(), 2)
    code = (
        "import sys, os; from pathlib import Path; from tests.grid.test_study import Place\n"
        "trial = Place(Path(sys.argv[1])).open().ask(); print(trial.params, flush=True); os.kill(os.getpid(), 9)"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code, str(search.folder)], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert search.trials()[2].state == TrialState.RUNNING
    study = search.open()
    again = study.ask()
    assert again is not None and again.number == 3 and str(again.params) == done.stdout.strip()
    assert study.counted() == 3
    study.tell(again, DONE, [1.0], identity="run")
    walk(study)
    assert [trial.state for trial in search.trials()].count(TrialState.FAIL) == 1
    assert [result.number for result in study.results()] == [0, 1, 3, 4, 5, 6]
    assert sorted(path.name for path in search.folder.iterdir()) == ["one.db", "one.lock"]
    # The interruption has not changed later proposals.
    other = Place(tmp_path / "whole")
    walk(other.open())
    places = [result.place for result in other.open().results()]
    assert [result.place for result in study.results()][:4] == places[:4]


def test_an_active_trial_is_not_repeated(tmp_path: Path) -> None:
    search = Place(tmp_path, trials=3)
    one, two = search.open(), search.open()
    first, second = one.ask(), two.ask()
    assert first is not None and second is not None
    assert (first.number, second.number) == (0, 1) and first.params != second.params
    assert one.running() == 1
    one.tell(first, DONE, [1.0])
    third = one.ask()
    assert third is not None and one.ask() is None and two.ask() is None
    assert not any(trial.state == TrialState.FAIL for trial in search.trials())


def test_rejected_trials_are_free_and_failed_ones_count(tmp_path: Path) -> None:
    study = Place(tmp_path, trials=2).open()
    for number, (state, broken) in enumerate([(REJECTED, False), (FAILED, False), (REJECTED, False), (FAILED, True)]):
        trial = study.ask()
        assert trial is not None and trial.number == number
        study.tell(trial, state, reason=f"because {number}", violation=float(state == REJECTED), broken=broken)
    assert study.ask() is None and study.front() == []
    assert [(result.state, result.reason) for result in study.results()][::3] == [
        (REJECTED, "because 0"),
        (FAILED, "because 3"),
    ]


def test_the_sampler_avoids_rejected_regions(tmp_path: Path) -> None:
    study = Place(tmp_path, trials=40).open()
    proposals = []
    while (trial := study.ask()) is not None and len(proposals) < 60:
        proposals.append(trial.params["x"])
        if trial.params["x"] > 0.2:
            study.tell(trial, REJECTED, violation=trial.params["x"] - 0.2)
        else:
            study.tell(trial, DONE, [trial.params["n"]])
    first, rest = proposals[:10], proposals[10:]
    assert sum(x <= 0.2 for x in rest) / len(rest) > 0.6 > sum(x <= 0.2 for x in first) / len(first)


def test_a_name_belongs_to_one_study_and_other_files_are_reported(tmp_path: Path) -> None:
    search = Place(tmp_path)
    walk(search.open({"space": "x", "seed": 0}), 1)
    with pytest.raises(ConfigError, match=r"search\.name=one: .* space was x, and is y"):
        search.open({"space": "y", "seed": 0})
    assert len(search.trials()) == 1
    (tmp_path / "one.db").write_bytes(b"not a database at all, but long enough to be taken for one" * 20)
    with pytest.raises(UserError, match="not readable as an Optuna study"):
        search.open()


def test_the_front_is_the_set_of_undominated_trials(tmp_path: Path) -> None:
    study = Place(tmp_path, trials=12).open(objectives=2)
    while (trial := study.ask()) is not None:
        study.tell(trial, DONE, [quality(trial.params), trial.params["n"] % 5])
    results = study.results()
    front = [
        one.number
        for one in results
        if not any(
            a <= one.values[0] and b >= one.values[1] and (a, b) != tuple(one.values)
            for a, b in (other.values for other in results)
        )
    ]
    assert study.front() == front and 0 < len(front) < 12


@pytest.mark.parametrize("maximize", [False, True])
def test_the_pruner_sees_the_mean_loss_of_each_twentieth(tmp_path: Path, maximize: bool) -> None:
    trial = Place(tmp_path, pruner="median").open().ask()
    assert trial is not None
    rows = [{"tokens": float(tokens), "loss": 100.0 / tokens} for tokens in range(10, 410, 10)]  # two rows per point
    curve = tmp_path / "curve.jsonl"
    # The first five rows are from an earlier session; the sixth is in the file before the watch is called with it.
    curve.write_text("".join(json.dumps(row) + "\n" for row in rows[:6]))
    watch = Watch(trial, curve, 400, maximize)
    assert not any(watch(row) for row in rows[5:])
    seen = trial.study.trials[0].intermediate_values
    sign = -1 if maximize else 1
    assert seen == pytest.approx({k: sign * 50 * (1 / (20 * k - 10) + 1 / (20 * k)) for k in range(1, POINTS + 1)})
