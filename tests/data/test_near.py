"""Near duplicates: compared with the Jaccard similarity itself, and dropped from a corpus."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinylm_ablate.config import DataConfig
from tinylm_ablate.data.corpus import SPLITS, open_corpus, text_fingerprint
from tinylm_ablate.data.near import NearDuplicates, shingles


def jaccard(one: str, other: str) -> float:
    a, b = shingles(one), shingles(other)
    return len(a & b) / len(a | b)


def changed(words: list[str], count: int, draw: random.Random) -> str:
    words = list(words)
    for place in draw.sample(range(len(words)), count):
        words[place] = f"changed{draw.random()}"
    return " ".join(words)


def test_shingles_are_five_consecutive_words_or_han_characters() -> None:
    assert shingles("One two, three FOUR five six") == {"one two three four five", "two three four five six"}
    assert shingles("风吹过水面，没有") == {"风 吹 过 水 面", "吹 过 水 面 没", "过 水 面 没 有"}
    assert shingles("too short") == {"too short"} and shingles("") == {""}


def test_similar_texts_are_found_and_others_are_not() -> None:
    draw = random.Random(0)
    near = NearDuplicates(0.8)
    found = {True: [0, 0], False: [0, 0]}
    for number in range(400):
        words = [f"word{draw.randrange(3000)}" for _ in range(200)]
        assert not near.seen(" ".join(words))
        other = changed(words, draw.choice([1, 2, 30, 60]), draw)
        alike = jaccard(" ".join(words), other) > 0.85
        found[alike][near.seen(other)] += 1
        assert near.seen(" ".join(words)), number
    # Far from the threshold, MinHash with 128 functions is almost certain.
    assert found[True][0] <= 0.02 * sum(found[True]) and found[False][1] == 0
    assert min(sum(counts) for counts in found.values()) > 100


@given(st.lists(st.text("abc 风水", min_size=1, max_size=20), min_size=1, max_size=30))
def test_repeated_words_are_always_found(texts: list[str]) -> None:
    near = NearDuplicates(1.0)
    known: set[frozenset[str]] = set()
    for text in texts:
        key = frozenset(shingles(text))
        assert near.seen(text) == (key in known)
        known.add(key)


def test_a_corpus_drops_near_duplicates(tmp_path: Path, data_config: Callable[..., DataConfig]) -> None:
    draw = random.Random(1)
    texts = []
    for _ in range(60):
        words = [f"word{draw.randrange(500)}" for _ in range(150)]
        texts += [" ".join(words), changed(words, 1, draw)]
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    every = open_corpus(data_config(path), tmp_path / "cache")
    fewer = open_corpus(data_config(path, near_duplicates=0.8), tmp_path / "cache")
    assert every.summary["near_duplicates"] == 0 and every.fingerprint != fewer.fingerprint
    assert fewer.summary["near_duplicates"] == pytest.approx(60, abs=3)
    kept = {document.text for split in SPLITS for document in fewer.documents(split)}
    assert set(texts[::2]) <= kept
    assert text_fingerprint(data_config(path, near_duplicates=0.7), tmp_path / "cache") != fewer.fingerprint
