"""``init.train=parent`` with a named parent: a public model, measured like a run (Figure 5)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers import TINY, run
from tests.init.test_full_size_child import PARENTS, saved
from tinylm_ablate.execute.plan import plans
from tinylm_ablate.frames.run_folders import read_runs
from tinylm_ablate.grid.compose import compose
from tinylm_ablate.measure.records import read_rows
from tinylm_ablate.measure.registry import requested
from tinylm_ablate.measure.subject import Subject
from tinylm_ablate.settle import settle


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    folder = tmp_path_factory.mktemp("named") / "model"
    return saved(folder, *PARENTS["qwen3"]), folder


@pytest.fixture
def place(small_data: list[str], model: tuple[Any, Path], tmp_path: Path) -> list[str]:
    named = ["init=inherit", f"init.parent={model[1]}", "init.train=parent"]
    return [*TINY, *small_data, *named, f"runs_dir={tmp_path}/runs", f"cache_dir={tmp_path}/cache"]


def test_its_losses_equal_transformers(place: list[str], model: tuple[Any, Path]) -> None:
    config = compose([*place, "evaluate.layer_skip=1"])
    settled, record = settle(config), run(config)
    assert (record["tokens"], record["steps"], settled.shape.depth) == (0, 0, 3)
    request = next(one for one in requested(settled) if one.measure.name == "bits_per_byte")
    subject = Subject(settled)
    rows = {row["document"]: row for row in read_rows(settled.folder, request.stem)}
    documents = [found for found in subject.corpus.documents("test", "en") if found.hash in rows][:3]
    for document in documents:
        row = rows[document.hash]
        ids = [subject.vocabulary.end_of_text, *subject.vocabulary.encode_batch([document.text])[0]][: row["tokens"] + 1]
        nats = 0.0
        for start in range(0, len(ids) - 1, 32):
            window = torch.tensor([ids[start : start + 33]])
            with torch.no_grad():
                logits = model[0](window[:, :-1]).logits
            nats += float(torch.nn.functional.cross_entropy(logits[0], window[0, 1:], reduction="sum"))
        assert row["nats"] == pytest.approx(nats, rel=1e-4)
    assert documents and math.isfinite(record["metrics"]["layer_skip/1/bits_per_byte/least"])
    assert "train/loss" not in record["metrics"] and not (settled.folder / "curve.jsonl").exists()
    assert list(read_runs(settled.folder.parent).runs["identity"]) == [settled.identity]


def test_it_is_one_run_whatever_the_training_settings(place: list[str]) -> None:
    expected = settle(compose(place)).identity
    for other in (
        "seed=3",
        "optimizer.scaling.base_lr=0.1",
        "arch.depth=7",
        "train.tokens=1024",
        "rounds=two",
        "init.criterion=learned",
    ):
        more = ["rounds.parts=1"] if other == "rounds=two" else []
        assert settle(compose([*place, other, *more])).identity == expected, other


def test_the_plan_states_that_nothing_is_trained(place: list[str]) -> None:
    text = plans([("the model", settle(compose(place)))], "table")
    assert "to do: 1, 0 tokens, 0 FLOPs" in text
