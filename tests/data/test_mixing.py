"""Proportions of languages and sources: exact over a run, a function of the position, and from the right text."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinylm_ablate.config import DataConfig
from tinylm_ablate.data.batches import Batches
from tinylm_ablate.data.corpus import open_corpus
from tinylm_ablate.data.corpus_summary import summarize
from tinylm_ablate.data.mixing import Group, Interleaving, grouped_by, groups_of
from tinylm_ablate.data.shards import open_shards
from tinylm_ablate.data.sources import open_source
from tinylm_ablate.errors import ConfigError, UserError

Make = Callable[..., DataConfig]

shares_of = st.lists(st.floats(0.001, 1), min_size=1, max_size=6).map(lambda drawn: [value / sum(drawn) for value in drawn])


@given(shares_of, st.integers(0, 2**31 - 1), st.integers(1, 3000))
def test_every_part_of_a_run_has_the_shares(shares: list[float], seed: int, count: int) -> None:
    groups, places = Interleaving(shares, (seed, 0))(np.arange(count))
    for group, share in enumerate(shares):
        mine = groups == group
        # Places are consecutive, so that each group's order is followed without a gap.
        assert places[mine].tolist() == list(range(mine.sum()))
        so_far = np.cumsum(mine)
        assert np.abs(so_far - share * np.arange(1, count + 1)).max() <= max(1e-6, len(shares) - 1)


def test_shares_hold_at_any_position_and_random_access_equals_iteration() -> None:
    interleaving = Interleaving([0.3, 0.0, 0.7], (5, 1))
    far = np.arange(2**32, 2**32 + 1000)
    groups, places = interleaving(far)
    assert abs((groups == 0).sum() - 300) <= 1 and not (groups == 1).any()
    assert abs(places[groups == 0][0] - 0.3 * 2**32) < 10
    shuffled = np.random.default_rng(0).permutation(1000)
    again = interleaving(far[shuffled])
    assert (again[0] == groups[shuffled]).all() and (again[1] == places[shuffled]).all()


@given(st.integers(0, 2**31 - 1), st.integers(1, 16))
def test_windows_are_in_their_group_and_each_occurs_once_per_epoch(seed: int, context: int) -> None:
    groups = [Group("a", 0, 400, 0.25), Group("b", 400, 300, 0.75)]
    batches = Batches(np.arange(700, dtype=np.uint16), context, seed, 0, groups)
    positions = np.arange(4 * 399 // context)
    starts = batches.windows(positions)
    in_a = starts < 400
    assert abs(in_a.sum() - len(positions) / 4) <= 2
    for mine, start, windows in ((starts[in_a], 0, 399 // context), (starts[~in_a], 400, 299 // context)):
        whole = mine[: len(mine) // windows * windows].reshape(-1, windows)
        assert (np.sort(whole, axis=1) == start + context * np.arange(windows)).all()
    inputs = batches.inputs(positions)
    assert (inputs == starts[:, None] + np.arange(context + 1)).all()
    assert len(set(starts[: batches.fresh].tolist())) == batches.fresh
    assert (Batches(np.arange(700), context, seed, 1, groups).windows(positions) != starts).any()


def test_a_group_that_is_too_short_is_named() -> None:
    with pytest.raises(UserError, match=r"the text of b in data\.weights has 5 tokens, and one sequence takes 9"):
        Batches(np.arange(100), 8, 0, 0, [Group("a", 0, 95, 0.5), Group("b", 95, 5, 0.5)])


@pytest.fixture
def data(tmp_path: Path, data_config: Make, texts: list[str]) -> DataConfig:
    path = tmp_path / "t.jsonl"
    rows = [{"text": text, "lang": "zh" if number % 2 else "en"} for number, text in enumerate(texts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return data_config(path, language_column="lang", weights={"en": 3.0, "zh": 1.0})


def test_weights_by_language_in_tokens_and_bytes(data: DataConfig, vocabulary, tmp_path: Path) -> None:
    corpus = open_corpus(data, tmp_path)
    shards = open_shards(corpus, vocabulary, tmp_path, grouped_by(data))
    plain = open_shards(corpus, vocabulary, tmp_path)
    assert shards.fingerprint != plain.fingerprint and shards.summary["tokens"] == plain.summary["tokens"]
    assert plain.summary["groups"] == {}
    tokens = shards.tokens("train")
    groups = groups_of(data, shards.summary["groups"])
    assert [(group.name, group.share) for group in groups] == [("en", 0.75), ("zh", 0.25)]
    for group in groups:
        decoded = vocabulary.decode(tokens[group.start : group.start + group.tokens].tolist()).split("<end>")
        assert decoded == [document.text for document in corpus.documents("train", group.name)] + [""]
    assert sum(group.tokens for group in groups) == len(tokens)
    by_bytes = groups_of(dataclasses.replace(data, weights_by="bytes"), shards.summary["groups"])
    size = {group.name: group.share * corpus.bytes("train", group.name) / group.tokens for group in by_bytes}
    assert size["en"] / size["zh"] == pytest.approx(3)
    summary = summarize(data, corpus, shards, 10_000)
    assert summary.passes == pytest.approx({group.name: 10_000 * group.share / group.tokens for group in groups})
    assert summary.kept == summary.read == 400 and sum(entry.tokens for entry in summary.languages) > len(tokens)
    assert summarize(dataclasses.replace(data, weights={}), corpus, plain, len(tokens)).passes == {"all": 1.0}
    assert any(line.startswith("text: 400 documents read, 400 kept (none dropped)") for line in summary.lines())


def test_weights_must_name_existing_groups(data: DataConfig, vocabulary, tmp_path: Path) -> None:
    shards = open_shards(open_corpus(data, tmp_path), vocabulary, tmp_path, "language")
    with pytest.raises(UserError, match=r"has en, zh; no weight is set for zh \(0 excludes it\); unknown: fr"):
        groups_of(dataclasses.replace(data, weights={"en": 1.0, "fr": 1.0}), shards.summary["groups"])
    with pytest.raises(UserError, match="unknown: fr"):  # before anything is tokenized
        open_corpus(dataclasses.replace(data, weights={"en": 1.0, "fr": 1.0}), tmp_path)
    [only] = groups_of(dataclasses.replace(data, weights={"en": 1.0, "zh": 0.0}), shards.summary["groups"])
    assert (only.name, only.share) == ("en", 1.0)


def test_a_mixture_of_sources(tmp_path: Path, data_config: Make, texts: list[str], vocabulary) -> None:
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts[:300]))
    (tmp_path / "b").mkdir()
    for number, text in enumerate(texts[300:]):
        (tmp_path / "b" / f"{number:03}.txt").write_text(text)
    sources = {"rows": str(tmp_path / "a.jsonl"), "folder": str(tmp_path / "b")}
    data = data_config(source="mixture", sources=sources, weights={"rows": 0.5, "folder": 0.5})
    corpus = open_corpus(data, tmp_path / "cache")
    by_source = corpus.summary["by_source"]
    assert {name: sum(by_source[split][name]["documents"] for split in by_source) for name in sources} == {
        "rows": 300,
        "folder": 100,
    }
    assert grouped_by(data) == "source" and corpus.languages == ["en", "zh"]
    shards = open_shards(corpus, vocabulary, tmp_path / "cache", "source")
    groups = groups_of(data, shards.summary["groups"])
    tokens = shards.tokens("train")
    for group in groups:
        decoded = vocabulary.decode(tokens[group.start : group.start + group.tokens].tolist()).split("<end>")
        assert decoded[:-1] == [document.text for document in corpus.documents("train", source=group.name)]
    identity = open_source(data, tmp_path / "cache").identity()
    swapped = dataclasses.replace(data, sources=dict(reversed(sources.items())))
    assert open_source(swapped, tmp_path / "cache").identity() != identity
    assert [entry["source"] for entry in open_source(data, tmp_path / "cache").description()] == ["rows", "folder"]
    with pytest.raises(UserError, match=r"has en, zh; .*For shares by source, use only names of data\.sources: rows, folder"):
        open_corpus(dataclasses.replace(data, weights={"rows": 0.5, "fold": 0.5}), tmp_path / "cache")


def test_all_sources_that_cannot_be_opened_are_named(tmp_path: Path, data_config: Make) -> None:
    (tmp_path / "there.txt").write_text("text")
    sources = {"a": f"{tmp_path}/none", "b": f"{tmp_path}/there.txt", "c": f"{tmp_path}/missing.txt"}
    with pytest.raises(ConfigError) as error:
        open_source(data_config(source="mixture", sources=sources), tmp_path / "cache")
    assert f"data.sources.a={tmp_path}/none: no such file or folder" in str(error.value)
    assert f"data.sources.c={tmp_path}/missing.txt: no such file or folder" in str(error.value)
    assert "2 mistakes" in str(error.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"weights": {"en": -1.0}}, "data.weights={'en': -1.0}: allowed: numbers that are at least 0"),
        ({"weights": {"en": float("nan")}}, "allowed: numbers that are at least 0"),
        ({"weights": {"en": 0.0}}, "allowed: at least one above 0"),
        ({"sources": {"a": "x"}}, "allowed with data=mixture; data.source=files does not use it"),
        ({"source": "mixture", "path": None}, "data.sources={}: data=mixture needs"),
        ({"source": "mixture", "path": None, "sources": {"a b": "default"}}, "data.sources=a b: allowed: names of letters"),
    ],
)
def test_mistakes(data: DataConfig, tmp_path: Path, change: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        open_source(dataclasses.replace(data, **change), tmp_path)
    assert said in str(error.value)
