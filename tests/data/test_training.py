"""Proportions in a run: they are part of its identity, and its sequences are drawn by them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.helpers import TINY
from tinylm_ablate.data.corpus import Corpus, open_corpus
from tinylm_ablate.data.mixing import grouped_by
from tinylm_ablate.data.shards import open_shards
from tinylm_ablate.data.training import training_batches
from tinylm_ablate.errors import UserError
from tinylm_ablate.grid.compose import compose
from tinylm_ablate.settle import settle
from tinylm_ablate.settled import Settled

WEIGHTS = "data.weights={en: 0.2, zh: 0.8}"


@pytest.fixture
def settled(small_corpus: Corpus, small_data: list[str], tmp_path: Path):
    cache = small_corpus.folder.parents[1]

    def make(*overrides: str) -> Settled:
        return settle(compose([*TINY, *small_data, f"cache_dir={cache}", f"runs_dir={tmp_path}", *overrides]))

    return make


def test_weights_define_another_run_on_the_same_text(settled) -> None:
    plain, weighted = settled(), settled(WEIGHTS)
    assert plain.text == weighted.text and plain.vocabulary == weighted.vocabulary
    assert len({plain.identity, weighted.identity, settled(WEIGHTS, "data.weights_by=bytes").identity}) == 3
    assert settled("data.weights_by=bytes").identity == plain.identity  # without weights, it has no effect
    assert plain.shards != weighted.shards
    assert settled("data.weights={zh: 0.8, en: 0.2}").identity == weighted.identity


def test_sequences_are_drawn_in_the_shares(settled, small_corpus: Corpus, vocabulary) -> None:
    run = settled(WEIGHTS)
    shards = open_shards(small_corpus, vocabulary, small_corpus.folder.parents[1], grouped_by(run.config.data))
    batches = training_batches(shards.tokens("train"), run.config, shards.folder)
    starts = batches.windows(np.arange(500))
    english = shards.summary["groups"]["en"]
    assert abs(((starts >= english["start"]) & (starts < english["start"] + english["tokens"])).sum() - 100) <= 1
    wrong = settled("data.weights={en: 1, fr: 1}")
    with pytest.raises(UserError, match="unknown: fr"):
        training_batches(shards.tokens("train"), wrong.config, shards.folder)


def test_a_copied_corpus_is_enough_without_a_network(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil
    import sys

    shutil.copytree(corpus.folder, tmp_path / "text" / corpus.fingerprint)
    monkeypatch.setattr(sys, "executable", "/nonexistent")
    opened = open_corpus(compose(["data=default"]).data, tmp_path)
    assert opened.summary == corpus.summary and not (tmp_path / "downloads").exists()
    assert next(opened.documents("test")) == next(corpus.documents("test"))
