"""Searches, as a user types them, on a small real text."""

from __future__ import annotations

import json
import re
import shutil
import signal
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from tests.execute.outcomes import disturbed, logs
from tests.helpers import TINY, Command, Ended, last_of_each, run, run_command
from tinylm_ablate.arch.shapes import parameters
from tinylm_ablate.errors import Pruned
from tinylm_ablate.execute.perform import perform
from tinylm_ablate.grid.compose import compose
from tinylm_ablate.grid.trials import off_budget
from tinylm_ablate.settle import settle


def test_the_distance_of_a_shape_from_the_budget() -> None:
    assert [off_budget(count, [100, 200]) for count in (100, 150, 200, 50, 300)] == [0, 0, 0, 0.5, 0.5]
    assert off_budget(7, []) == 0


@pytest.fixture(scope="module")
def data(small_data: list[str], small_cache: str) -> list[str]:
    return [*small_data, *TINY, small_cache]


def test_a_pruned_run_resumes_bit_for_bit(data: list[str], tmp_path: Path) -> None:
    settings = [*data, "train.tokens=1536", "train.log_every=1"]
    whole, parts = (compose([*settings, f"runs_dir={tmp_path / name}"]) for name in ("whole", "parts"))
    record, settled = run(whole), settle(parts)
    with pytest.raises(Pruned, match="pruned at step 7 of 12"):
        perform([("trial", settled)], parts, watch=lambda row: row["step"] == 7, quiet=True)
    assert not (settled.folder / "metrics.json").exists() and not (settled.folder / "error.txt").exists()
    assert [path.name for path in (settled.folder / "checkpoint").iterdir()] == ["step-000000007"]
    assert run(parts)["metrics"]["test/bits_per_byte/all"] == record["metrics"]["test/bits_per_byte/all"]
    one, other = (load_file(folder / "model" / "model.safetensors") for folder in (settle(whole).folder, settled.folder))
    assert all((one[name] == other[name]).all() for name in one)


def search(folder: Path, *arguments: str) -> Ended:
    return run_command("-m", "hydra/sweeper=optuna", *last_of_each(arguments), folder=folder)


def described(folder: Path) -> dict[str, Any]:
    (path,) = folder.glob("runs/search/*.json")
    content: dict[str, Any] = json.loads(path.read_text())
    return content


RATE = "optimizer.scaling.base_lr=tag(log, interval(1e-4, 1e-1))"
LONGER = [
    "train.tokens=5120",
    "train.checkpoint_minutes=0.001",
    "search.trials=3",
    RATE,
    "arch.depth=range(1,4)",
    "init=choice(gpt2,internlm)",
]


@pytest.fixture(scope="module")
def whole(data: list[str], empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """An undisturbed search: its folder and its output."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "runs").mkdir()
    shutil.copy(empty_database, folder / "runs" / "mlflow.db")
    done = search(folder, *data, *LONGER, "tracking=mlflow")
    assert done.code == 0, done.text
    return folder, done.text


def test_a_search_trains_its_trials_and_reports_the_best(whole: tuple[Path, str]) -> None:
    folder, output = whole
    found = described(folder)
    assert found["counts"] == {"done": 3} and len(found["trials"]) == 3
    values = {}
    for trial in found["trials"]:
        place = folder / "runs" / trial["identity"]
        record = json.loads((place / "metrics.json").read_text())
        (measure,) = place.glob("measures/bits_per_byte.*.json")
        values[trial["number"]] = json.loads(measure.read_text())["metrics"]["validation/bits_per_byte/all"]
        assert trial["values"] == {"validation/bits_per_byte/all": values[trial["number"]]}
        assert record["shape"]["depth"] == int(trial["overrides"]["arch.depth"])
        assert record["config"]["optimizer"]["scaling"]["base_lr"] == float(trial["overrides"]["optimizer.scaling.base_lr"])
        assert record["parameters"]["total"] == trial["parameters"]
    assert found["front"] == [min(values, key=values.__getitem__)]
    assert "3 done" in output and "| trial | arch.depth | optimizer.scaling.base_lr | init" in re.sub(" +", " ", output)
    assert {path.suffix for path in (folder / "runs" / "search").iterdir()} == {".db", ".json", ".lock"}


def test_the_trials_are_nested_in_mlflow(whole: tuple[Path, str]) -> None:
    from mlflow import MlflowClient

    folder, _ = whole
    client = MlflowClient(f"sqlite:///{folder / 'runs' / 'mlflow.db'}")
    (experiment,) = [e for e in client.search_experiments() if e.name == "tinylm_ablate"]
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert parent.info.run_name == described(folder)["name"] and parent.info.status == "FINISHED"
    trials = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert sorted(run.info.run_name.split(":")[0] for run in trials) == [f"trial {number}" for number in range(3)]
    assert not any(key.startswith("search.") for run in trials for key in run.data.params)


@pytest.mark.timeout(600)
def test_a_search_that_was_killed_loses_no_trial(data: list[str], whole: tuple[Path, str], tmp_path: Path) -> None:
    with Command("-m", "hydra/sweeper=optuna", *last_of_each([*data, *LONGER]), folder=tmp_path) as command:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            records = list(tmp_path.glob("runs/*/metrics.json"))
            if records and any(
                not (path.parents[1] / "metrics.json").exists() for path in tmp_path.glob("runs/*/checkpoint/step-*")
            ):
                break
            time.sleep(0.01)
        command.kill()
        ended = command.wait()
    assert ended.code == -signal.SIGKILL and records
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/metrics.json")}
    assert 1 <= len(before) < 3
    (database,) = tmp_path.glob("runs/search/*.db")
    with sqlite3.connect(database) as connection:
        assert ("RUNNING",) in connection.execute("select state from trials").fetchall()
    rest = search(tmp_path, *data, *LONGER)
    assert rest.code == 0, rest.text
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in before.items())
    one, other = described(whole[0]), described(tmp_path)
    assert [(t["overrides"], t["values"], t["identity"]) for t in one["trials"]] == [
        (t["overrides"], t["values"], t["identity"]) for t in other["trials"]
    ]
    # A larger total continues the same study.
    more = search(tmp_path, *data, *LONGER, "search.trials=4")
    assert more.code == 0 and "3 of 4 trials so far" in more.err and "4 done" in more.err, more.text


def test_several_objectives_within_a_budget(data: list[str], tmp_path: Path) -> None:
    objectives = "search.objectives=[validation/bits_per_byte/all,decode/tokens_per_second]"
    decode = ["evaluate.decode.new_tokens=6", "evaluate.decode.batch=2", "evaluate.decode.repeats=1"]
    plan = {depth: settle(compose([*data, f"arch.depth={depth}"])) for depth in range(1, 6)}
    counts = {depth: parameters(settled.shape)["total"] for depth, settled in plan.items()}
    budget = f"search.parameters=[{counts[2]},{counts[3]}]"
    done = search(tmp_path, *data, objectives, *decode, budget, "search.trials=3", "arch.depth=range(1,6)", RATE)
    assert done.code == 0, done.text
    found = described(tmp_path)
    trained = [trial for trial in found["trials"] if trial["state"] == "done"]
    rejected = [trial for trial in found["trials"] if trial["state"] == "rejected"]
    assert len(trained) == 3 and rejected
    assert {trial["overrides"]["arch.depth"] for trial in trained} <= {"2", "3"}
    assert {trial["overrides"]["arch.depth"] for trial in rejected} <= {"1", "4", "5"}
    assert not any((tmp_path / "runs" / trial["identity"]).exists() for trial in rejected)
    assert [o["direction"] for o in found["objectives"]] == ["minimize", "maximize"]
    assert set(found["front"]) <= {trial["number"] for trial in trained}


def test_weak_trials_are_pruned_and_keep_their_checkpoint(data: list[str], tmp_path: Path) -> None:
    rate = "optimizer.scaling.base_lr=tag(log, interval(1e-6, 1e-1))"
    settings = ["search.pruner=median", "search.sampler=random", "search.trials=10", "train.tokens=2560", "train.log_every=1"]
    done = search(tmp_path, *data, "arch.depth=1", rate, *settings)
    assert done.code == 0, done.text
    found = described(tmp_path)
    pruned = [trial for trial in found["trials"] if trial["state"] == "pruned"]
    assert pruned and found["counts"] == {"done": 10 - len(pruned), "pruned": len(pruned)}
    for trial in pruned:
        run = tmp_path / "runs" / trial["identity"]
        assert (
            list((run / "checkpoint").glob("step-*"))
            and not (run / "metrics.json").exists()
            and not (run / "error.txt").exists()
        )


def test_a_diverged_trial_does_not_affect_the_search(data: list[str], tmp_path: Path) -> None:
    overflow = ["optimizer.clip=1e30", "optimizer.scaling.exponent=0", "optimizer.weight_decay=1.0", "train.tokens=2560"]
    done = search(tmp_path, *data, *overflow, "optimizer.scaling.base_lr=0.003,900", "search.trials=4", "search.sampler=random")
    assert done.code == 0, done.text
    states = {trial["overrides"]["optimizer.scaling.base_lr"]: trial["state"] for trial in described(tmp_path)["trials"]}
    assert states == {"0.003": "done", "900": "failed"}


def test_all_mistakes_are_reported_before_anything_is_spent(tmp_path: Path) -> None:
    mistakes = {
        "search.objectives=[quality]": "search.objectives=[quality]: allowed: validation/bits_per_byte/LANGUAGE",
        "search.parameters=[5,1]": "search.parameters=[5, 1]: allowed: [low,high]",
        "search.name=a/b": "search.name=a/b: allowed: letters",
        "search.trials=0": "search.trials=0: allowed: a whole number at least 1",
        "search.pruner=weakest": "search.pruner=weakest: allowed: none, median, hyperband",
        "seeds=2": "seeds=2: a trial is one run",
        "arch.depth=range(0,5)": "arch.depth=0: allowed: a whole number at least 1",
        "train.micro_batch=int(interval(1,5))": "train.micro_batch=5: allowed: a divisor",
        "init=choice(gpt2,gpt3)": "init=gpt3: no such choice",
        "arch.dpeth=1": "arch.dpeth: no such key; did you mean arch.depth?",
    }
    composed = [key for key in mistakes if not key.startswith(("init", "arch.dpeth"))]
    for asked, exact in ((composed, True), (list(mistakes), False)):
        done = search(tmp_path, *asked)
        assert done.code == 2 and "Traceback" not in done.err, done.text
        output = [message for key, message in mistakes.items() if message in done.err]
        wanted = [mistakes[key] for key in asked]
        assert output == wanted if exact else {mistakes["arch.dpeth=1"], mistakes["init=choice(gpt2,gpt3)"]} <= set(output), (
            done.err
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["arch.depth=2"], "needs at least one axis"),
        (["arch.depth=1,2", "search.pruner=median", "search.objectives=[train/loss,train/seconds]"], "with one objective"),
        (["tokenizer.vocab_size=300,400", "search.pruner=median"], "cannot be compared between texts or tokenizers"),
        (["arch.depth=1,2", "search.objectives=[validation/bits_per_byte/de]"], "no such language; allowed: all, en, zh"),
        (["arch.depth=1,2", "grid.workers=2"], "grid.workers=2: a search does one trial at a time"),
        (["arch.depth=1,2", "mode=status"], "mode=status: allowed with hydra/sweeper=grid"),
    ],
)  # fmt: skip
def test_impossible_searches_are_reported(arguments: list[str], message: str, data: list[str], tmp_path: Path) -> None:
    done = search(tmp_path, *data, *arguments)
    assert done.code == 2 and message in done.err, done.text
    assert list(tmp_path.iterdir()) == []


def test_a_space_outside_the_budget_is_reported(data: list[str], tmp_path: Path) -> None:
    budget = ["search.parameters=[1,2]", "search.trials=3"]
    for space, words in (
        ("arch.depth=1,2", "the search ends 3 trials early: all 2 points of the space were tried; shapes outside "),
        ("arch.depth=range(1,1000)", "the search ends 3 trials early: "),
    ):
        done = search(tmp_path, *data, *budget, space)
        assert done.code == 1 and words in done.err and "search.parameters=[1, 2] had 11," in done.err, done.text
        assert not list(tmp_path.glob("runs/*/settled.json")), "something was trained"
    again = search(tmp_path, *data, *budget, "arch.depth=1,2")
    assert "all 2 points of the space were tried" in again.err and "rejected trial" not in again.err


def test_a_space_of_duplicates_is_reported(data: list[str], tmp_path: Path) -> None:
    done = search(tmp_path, *data, "arch.depth=1,2", "search.trials=1000")
    assert done.code == 0 and "the search ends 998 trials early: all 2 points of the space were tried" in done.err, done.text
    assert "2 done" in done.err
    # Different points with the same run: AdamW ignores Muon's momentum.
    done = search(tmp_path, *data, "optimizer.name=adamw", "optimizer.momentum=interval(0.1,0.9)", "search.trials=1000")
    assert done.code == 0 and "20 proposals in a row were tried before" in done.err, done.text
    assert len({trial["identity"] for trial in json.loads(newest(tmp_path).read_text())["trials"]}) == 1


def newest(folder: Path) -> Path:
    return max(folder.glob("runs/search/*.json"), key=lambda path: path.stat().st_mtime_ns)


MEASURE = """
from dataclasses import dataclass
from typing import ClassVar

@dataclass
class Odd:
    name: ClassVar[str] = "odd"
    weights: ClassVar[bool] = True

    def measure(self, subject):
        return {"odd": float("nan") if subject.run.shape.depth == 2 else 1.0}
"""


def test_a_trial_whose_measure_is_not_a_number_fails_alone(
    data: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "odd_measure.py").write_text(MEASURE)
    monkeypatch.syspath_prepend(tmp_path)
    done = search(tmp_path, *data, "arch.depth=1,2,3", "evaluate.own=[{_target_: odd_measure.Odd}]", "search.trials=3")
    assert done.code == 0 and "Traceback" not in done.err, done.text
    found = described(tmp_path)
    states = {trial["overrides"]["arch.depth"]: trial["state"] for trial in found["trials"]}
    assert states["2"] == "failed" and set(states.values()) == {"done", "failed"}
    (reason,) = {trial["reason"] for trial in found["trials"] if trial["state"] == "failed"}
    assert "odd is nan; the weights may have diverged" in reason


@pytest.mark.slow
def test_two_searches_on_one_study_share_its_trials(data: list[str], tmp_path: Path) -> None:
    arguments = ["-m", "hydra/sweeper=optuna", *data, RATE, "search.trials=6", "search.sampler=random", "search.name=shared"]
    codes = disturbed(tmp_path, what="together", names=["one", "two"], arguments=arguments)
    assert codes == {"one": 0, "two": 0}, logs(tmp_path)
    trials = described(tmp_path)["trials"]
    assert [trial["state"] for trial in trials] == ["done"] * 6
    assert len({trial["identity"] for trial in trials}) == 6
    ends = {name: (tmp_path / f"{name}.log").read_text().count("done     trial") for name in codes}
    assert sum(ends.values()) == 6 and min(ends.values()) > 0, ends  # each trial was done by one of them
    assert {path.suffix for path in (tmp_path / "runs" / "search").iterdir()} == {".db", ".json", ".lock"}
    assert len(list((tmp_path / "runs" / "search").iterdir())) == 3
