"""Workers that are killed: no task is done twice, nothing is lost, and the results equal those of an undisturbed grid."""

from __future__ import annotations

import fcntl
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.execute.outcomes import disturbed, litter, logs, outcome
from tests.helpers import TINY

#: Different cells, a little longer than the smallest run, so that workers die during them.
CELLS = ["arch.depth=1,2", "seeds=3", "train.tokens=9600", "train.checkpoint_minutes=0.002", "train.log_every=1"]

#: A run with every kind of task: it inherits from a parent by scores and draws its second round by losses.
EVERYTHING = [
    "init=inherit", "init.criterion=taylor", "init.calibration_tokens=256", "init.parent_depth=3", "init.parent_width=32",
    "init.parent_ffn_width=48", "init.keep_first=1", "init.keep_last=1", "rounds=two", "rounds.parts=2", "rounds.rule=loss",
    "rounds.forgetting=true", "train.checkpoint_minutes=1e-9", "train.log_every=1", "evaluate.layer_skip=1",
]  # fmt: skip
STACKED = ["scores", "losses", "run", "measure"]
DECAYS = ["0.1", "0.5"]
KINDS = ["text", "tokenizer", "shards", "scores", "losses", "run", "measure"]


@pytest.fixture(scope="session")
def whole(small_data: list[str], shared: Path) -> Path:
    """A folder with the undisturbed grid of ``CELLS`` in ``whole``, and the cache that it has filled."""
    folder = shared / "undisturbed"
    folder.mkdir(exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "codes.json").exists():
            arguments = ["-m", *TINY, *small_data, *CELLS, "cache_dir=cache", "train.stack=1"]
            codes = disturbed(folder, what="undisturbed", arguments=arguments)
            assert codes == {"undisturbed": 0}, logs(folder)
    return folder


def assert_same(found: dict[str, dict[str, Any]], expected: dict[str, dict[str, Any]]) -> None:
    """Training must be bit-identical; measures of a run in another batch are equal within rounding."""
    assert found.keys() == expected.keys()
    for identity, files in expected.items():
        assert found[identity].keys() == files.keys()
        for name, value in files.items():
            if isinstance(value, dict) and name != "metrics":
                assert found[identity][name] == pytest.approx(value, abs=1e-4), (identity, name)
            elif not name.endswith(".parquet") or name == "batch_losses.parquet":
                assert found[identity][name] == value, (identity, name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("apart", "stacks"),
    [(False, [1]), (True, [1]), (False, [1, 3, 2])],
    ids=["one machine", "machines without locks", "stacks"],
)
def test_workers_killed_at_random_end_with_the_results_of_an_undisturbed_grid(
    apart: bool, stacks: list[int], whole: Path, small_data: list[str], tmp_path: Path
) -> None:
    """With stacks, a killed run resumes alone or in a stack with other runs."""
    shutil.copytree(whole / "cache", tmp_path / "cache")
    arguments = ["-m", *TINY, *small_data, *CELLS, "cache_dir=cache", "grid.lease_seconds=2"]
    in_turn = [[f"train.stack={size}"] for size in stacks]
    codes = disturbed(
        tmp_path, what="at_random", seed=7 + apart, workers=3, kills=5, pause=[0.2, 1.4], apart=apart, in_turn=in_turn,
        arguments=arguments,
    )  # fmt: skip
    assert set(codes.values()) == {0}, logs(tmp_path)
    expected, runs = outcome(whole / "whole"), outcome(tmp_path / "runs")
    assert len(expected) == 6
    assert_same(runs, expected)
    if len(stacks) == 1:
        assert runs == expected
    for files in runs.values():
        assert [row["step"] for row in files["curve"]] == list(range(1, 76)), "two trainings wrote to one curve"
    output = [path.read_text() for path in sorted(tmp_path.glob("worker-*.log"))]
    done = [line for text in output for line in text.splitlines() if line.startswith("start ")]
    finished = [line.split(":")[0].replace("done   ", "start  ") for text in output for line in text.splitlines()
                if line.startswith("done  ")]  # fmt: skip
    assert set(finished) <= set(done) and len(output) > len(codes) - 1, "nobody was killed"
    assert not litter(tmp_path / "runs")


@pytest.mark.slow
@pytest.mark.parametrize("stack", [1, 2])
def test_a_worker_killed_in_any_kind_of_task_is_replaced(stack: int, small_data: list[str], tmp_path: Path) -> None:
    """One run, and two with different parents as one program, with scores, losses and measures; compared with each alone."""
    arguments = ["-m", *TINY, *small_data, *EVERYTHING, "seed=0", f"optimizer.weight_decay={','.join(DECAYS[:stack])}"]
    places = [
        [f"runs_dir={name}", f"cache_dir={name}-cache", f"train.stack={size}"] for name, size in (("whole", 1), ("runs", stack))
    ]
    kinds = KINDS if stack == 1 else STACKED
    codes = disturbed(tmp_path, what="in_each_kind", kinds=kinds, places=places, arguments=arguments)
    assert codes == {"undisturbed": 0, **dict.fromkeys(kinds, -9), "last": 0}, logs(tmp_path)
    whole, runs = outcome(tmp_path / "whole"), outcome(tmp_path / "runs")
    assert len(whole) == 3 * stack
    assert_same(runs, whole)
    if stack == 1:
        assert runs == whole
    else:
        output = "".join(path.read_text() for path in tmp_path.glob("worker-*.log"))
        for kind in ("scores", "losses", "runs", "measures"):
            assert f"stack  {stack} {kind} as one program" in output
    assert not litter(tmp_path / "runs", tmp_path / "runs-cache")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rename", "killed_at", "reached"),
    [(3, 6, "runs/*/measures/cloze.*.json"), (8, None, "runs/claims/run-*.2"), (8, None, "runs/*/metrics.json")],
    ids=["before it trains, till the end", "in training, till it is replaced", "in training, till the end"],
)
def test_a_suspended_worker_that_was_replaced_does_no_damage(
    rename: int, killed_at: int | None, reached: str, whole: Path, small_data: list[str], tmp_path: Path
) -> None:
    """In the first case, it would begin to train, and be killed after it has overwritten the curve of the finished run."""
    shutil.copytree(whole / "cache", tmp_path / "cache")
    arguments = ["-m", *TINY, *small_data, *CELLS[2:], "seed=0", "cache_dir=cache", "grid.lease_seconds=1"]
    codes = disturbed(tmp_path, what="suspended", arguments=arguments, rename=rename, killed_at=killed_at, reached=reached)
    assert set(codes.values()) == {0}, logs(tmp_path)
    assert "Traceback" not in logs(tmp_path)
    ((identity, found),) = outcome(tmp_path / "runs").items()
    assert found == outcome(whole / "whole")[identity]
    assert not litter(tmp_path / "runs") and not list(tmp_path.glob("runs/*/checkpoint"))
