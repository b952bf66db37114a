"""The losses of batches under a frozen model, and rounds from end to end."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers import TINY, run
from tinylm_ablate.arch.decoder import Decoder
from tinylm_ablate.data.batches import Batches
from tinylm_ablate.data.corpus import Corpus
from tinylm_ablate.errors import UserError
from tinylm_ablate.init.random import initialize
from tinylm_ablate.rounds import losses as module
from tinylm_ablate.rounds.losses import batch_losses
from tinylm_ablate.settle import settle
from tinylm_ablate.settled import Settled


@pytest.fixture
def settled(compose, tmp_path: Path) -> Settled:
    return settle(compose([*TINY, "train.tokens=5120", "train.micro_batch=2", f"runs_dir={tmp_path}/runs"]))


@pytest.fixture
def decoder(settled: Settled) -> Decoder:
    made = Decoder(settled.shape)
    initialize(made, settled.init, 0)
    return made


TOKENS = np.random.default_rng(0).integers(0, 300, 4000).astype(np.uint16)


def test_losses_equal_those_of_the_batches(settled: Settled, decoder: Decoder, tmp_path: Path) -> None:
    found = batch_losses(settled, decoder, TOKENS, tmp_path)
    assert found.shape == (40,)
    batches = Batches(TOKENS, 32, settled.config.seed, round=0)
    for batch in (0, 17, 39):
        inputs = torch.from_numpy(batches.inputs(np.arange(4 * batch, 4 * batch + 4)))
        with torch.no_grad():
            expected = torch.nn.functional.cross_entropy(decoder(inputs[:, :-1]).flatten(0, 1), inputs[:, 1:].flatten())
        assert found[batch] == pytest.approx(float(expected), abs=1e-5)


def test_a_killed_pass_resumes(settled: Settled, decoder: Decoder, tmp_path: Path, monkeypatch) -> None:
    whole = batch_losses(settled, decoder, TOKENS, tmp_path / "whole")
    (tmp_path / "parts").mkdir()
    # After a kill: some complete losses and an incomplete one.
    (tmp_path / "parts" / "batch_losses.part").write_bytes(whole[:21].tobytes() + b"\x01\x02\x03")
    asked = []
    measure = module.measure
    monkeypatch.setattr(module, "measure", lambda *arguments: asked.append(arguments[-1]) or measure(*arguments))
    assert np.array_equal(batch_losses(settled, decoder, TOKENS, tmp_path / "parts"), whole)
    assert asked == [range(21, 40)]
    assert not (tmp_path / "parts" / "batch_losses.part").exists()


def test_a_damaged_file_is_refused(settled: Settled, decoder: Decoder, tmp_path: Path) -> None:
    (tmp_path / "batch_losses.parquet").write_bytes(b"no parquet")
    with pytest.raises(UserError, match=r"not a file of batch losses .*delete it"):
        batch_losses(settled, decoder, TOKENS, tmp_path)


def test_rounds_from_end_to_end(compose, small_data: list[str], small_corpus: Corpus, tmp_path: Path) -> None:
    def trained(*overrides: str) -> dict:
        return run(
            compose(
                [
                    *TINY,
                    *small_data,
                    f"cache_dir={small_corpus.folder.parents[1]}",
                    "train.tokens=2560",
                    "rounds.parts=4",
                    f"runs_dir={tmp_path}",
                    *overrides,
                ]
            )
        )

    one = trained("rounds.forgetting=true")
    assert all(0 < one["metrics"][f"forgetting/part_{part}"] < 8 for part in (1, 2, 3, 4))
    two = trained("rounds.count=2")
    assert two["tokens"] == one["tokens"] * 3 // 2
    (entry,) = two["rounds"]
    assert entry["drawn"] == 10
    assert entry["batches"] == 20
    assert 0 < entry["parts"][0]["effective_share"] <= 1
    rows = [json.loads(line) for line in (tmp_path / two["identity"] / "curve.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == sorted({row["step"] for row in rows})
    assert rows[-1]["tokens"] == two["tokens"]
    before = [json.loads(line) for line in (tmp_path / one["identity"] / "curve.jsonl").read_text().splitlines()]
    assert rows[: len(before)] == before
    three = trained("rounds.count=3", "rounds.rule=uniform", "rounds.schedule=constant")
    assert [entry["round"] for entry in three["rounds"]] == [2, 3]
    last = json.loads((tmp_path / three["identity"] / "curve.jsonl").read_text().splitlines()[-1])
    assert last["learning_rate"] == pytest.approx(before[-1]["learning_rate"])
    assert last["step"] == three["steps"] == 40
