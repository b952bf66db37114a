"""Measurements along a run, intermediate models, and branches, from the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.execute.outcomes import litter, outcome
from tests.helpers import TINY, run, run_command
from tinylm_ablate.errors import UserError
from tinylm_ablate.execute.cost import cost
from tinylm_ablate.frames.run_folders import read_runs
from tinylm_ablate.grid.compose import compose
from tinylm_ablate.settle import settle

STEPS = 20


@pytest.fixture
def place(small_data: list[str], tmp_path: Path, small_corpus: object) -> list[str]:
    del small_corpus
    precise = ["train.precision=fp32", "train.log_every=1", f"train.tokens={128 * STEPS}"]
    return [*TINY, *small_data, *precise, f"runs_dir={tmp_path}/runs", f"cache_dir={tmp_path}/cache"]


def measured(folder: Path) -> dict[int, set[str]]:
    found: dict[int, set[str]] = {}
    for path in folder.glob("points/*/measures/*.json"):
        found.setdefault(int(path.parent.parent.name), set()).add(path.name.split(".")[0])
    return found


def test_bits_and_chosen_measures_along_the_run(place: list[str]) -> None:
    config = compose([*place, "evaluate.every=0.25", "evaluate.every_measures=[bits_per_byte,cloze]"])
    record, settled = run(config), settle(config)
    assert measured(settled.folder) == {step: {"bits_per_byte", "cloze"} for step in (5, 10, 15, 20)}
    assert not list(settled.folder.glob("points/*/model"))  # not requested
    table = read_runs(settled.folder.parent).rows["along"]
    assert sorted(set(table["tokens"])) == [640, 1280, 1920, 2560]
    bits = table[table["metric"] == "test/bits_per_byte/all"].sort_values("tokens")["value"].tolist()
    assert bits[0] > bits[-1]
    assert record["metrics"]["test/bits_per_byte/all"] > 0
    assert not table["metric"].str.contains("standard_error|documents").any()


def test_the_last_point_is_the_final_model(place: list[str]) -> None:
    config = compose([*place, "evaluate.every=0.5", "evaluate.every_bytes=2000"])
    record, settled = run(config), settle(config)
    table = read_runs(settled.folder.parent).rows["along"].set_index(["tokens", "metric"])["value"]
    expected = record["metrics"]["test/bits_per_byte/all"]
    assert table[2560, "test/bits_per_byte/all"] == pytest.approx(expected, rel=1e-5)


def test_a_finished_run_is_retrained_for_intermediate_models_and_keeps_its_record(place: list[str]) -> None:
    plain, asked = compose(place), compose([*place, "evaluate.every=0.5", "train.keep_checkpoints=[0.5]"])
    run(plain)
    folder = settle(plain).folder
    before = {name: (folder / name).read_bytes() for name in ("metrics.json", "model/model.safetensors")}
    with pytest.raises(UserError, match="were not kept; the same command without mode=evaluate trains it again"):
        from tinylm_ablate.modes import perform

        perform(compose([*place, "evaluate.every=0.5", "mode=evaluate"]))
    run(asked)
    assert set(measured(folder)) == {10, 20}
    assert (folder / "points/000000010/model/model.safetensors").is_file()
    assert (folder / "points/000000010/checkpoint/step-000000010").is_dir()
    assert before == {name: (folder / name).read_bytes() for name in before}
    stamps = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    run(asked)
    assert stamps == {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    more = compose([*place, "evaluate.every=0.5", "evaluate.every_bytes=100", "train.keep_checkpoints=[0.5,1]"])
    run(more)
    assert len(list(folder.glob("points/000000010/measures/bits_per_byte.*.json"))) == 2


def test_half_written_files_are_removed_and_not_taken_for_whole_ones(place: list[str]) -> None:
    config = compose([*place, "train.keep_checkpoints=[0.5]"])
    settled = settle(config)
    run(config)
    before = outcome(settled.folder.parent)
    point = settled.folder / "points/000000010/checkpoint"
    whole = point / "step-000000010"
    shutil.copytree(whole, point / ".step-000000010.0123abcd")
    whole.rename(point / ".step-000000010.4567cdef")  # as two kills leave them
    for path in [path for path in settled.folder.iterdir() if path.is_file()]:
        shutil.copy(path, path.with_name(f".{path.name}.0123abcd"))
    run(config)
    assert outcome(settled.folder.parent) == before
    assert whole.is_dir() and not litter(settled.folder)


def test_a_stopped_run_returns_to_an_earlier_point_if_requested(place: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    from tinylm_ablate.errors import Pruned
    from tinylm_ablate.execute.perform import perform

    plain = compose(place)
    settled = settle(plain)
    with pytest.raises(Pruned):
        perform([("the run", settled)], plain, quiet=True, watch=lambda row: row["step"] == 12)
    run(compose([*place, "evaluate.every=0.25"]))
    assert "resumes from before step 5, whose model is now requested" in capsys.readouterr().err
    assert set(measured(settled.folder)) == {5, 10, 15, 20}


def test_a_branch_is_the_run_of_its_own_budget(place: list[str]) -> None:
    """Bit-identically: with a warm-up in tokens and one peak rate, a branch of a constant rate is wsd over its steps."""
    common = [*place, "optimizer.warmup=256", "optimizer.scaling.base_lr=0.01", "optimizer.scaling.rate_sum=null"]
    config = compose([*common, "optimizer.schedule=constant", "train.anneal_from=0.5"])
    branch, record = settle(config), run(config)
    own = compose([*common, "optimizer.schedule=wsd", f"train.tokens={branch.tokens}"])
    expected = run(own)
    assert record["metrics"]["test/bits_per_byte/all"] == expected["metrics"]["test/bits_per_byte/all"]
    rows = [
        [json.loads(line) for line in (settle(one).folder / "curve.jsonl").read_text().splitlines()] for one in (config, own)
    ]
    assert [(row["step"], row["loss"], row["learning_rate"]) for row in rows[0]] == [
        (row["step"], row["loss"], row["learning_rate"]) for row in rows[1]
    ]


def test_a_branch_ignores_later_steps_of_the_run(place: list[str]) -> None:
    trunk, branch = compose([*place, "train.keep_checkpoints=[0.5]"]), compose([*place, "train.anneal_from=0.5"])
    run(trunk)
    curve = settle(trunk).folder / "curve.jsonl"
    rows = curve.read_text().splitlines(keepends=True)
    curve.write_text("".join(rows[:15]) + "damaged")
    assert run(branch)["metrics"]["test/bits_per_byte/all"] > 0
    found = (settle(branch).folder / "curve.jsonl").read_text().splitlines(keepends=True)
    assert len(found) == 12 and [json.loads(row)["loss"] for row in found[:10]] == [
        json.loads(row)["loss"] for row in rows[:10]
    ]


def test_branches_of_a_grid_share_one_run(place: list[str]) -> None:
    words = [*place, "train.anneal_from=0.25,0.5,null", "optimizer.schedule=wsd", "evaluate.every=0.25", "train.stack=2"]
    ended = run_command("-m", *words)
    assert ended.code == 0, ended.text
    runs = Path(next(word for word in place if word.startswith("runs_dir="))[9:])
    folders = sorted(path.parent for path in runs.glob("*/metrics.json"))
    assert len(folders) == 3
    table = read_runs(runs).rows["along"]
    steps = {json.loads((folder / "metrics.json").read_text())["steps"]: folder.name for folder in folders}
    own = {count: sorted(set(table[table["identity"] == name]["tokens"] // 128)) for count, name in steps.items()}
    assert own == {6: [6], 12: [12], 20: [5, 10, 15, 20]}


def test_the_plan_counts_what_is_measured_along_the_run(place: list[str]) -> None:
    plain, asked = (settle(compose([*place, *more])) for more in ([], ["evaluate.every=0.1", "train.keep_checkpoints=[0.5]"]))
    assert cost(asked).evaluation > cost(plain).evaluation
    assert cost(asked).model_bytes > 3 * cost(plain).model_bytes
