"""The cut vocabulary: exact size, no dead entries, any text encodable, the most frequent entries."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinylm_ablate.errors import UserError
from tinylm_ablate.formats.importing import import_tokenizer
from tinylm_ablate.formats.lossless import State, added, base_entries, dead_entries, open_tokenizer, special_token
from tinylm_ablate.tokenizer.compact import cut
from tinylm_ablate.tokenizer.count import count_entries

SIZE = 600


@pytest.fixture(scope="module", params=["byte-level", "ranks", "sentencepiece"])
def large(request: pytest.FixtureRequest) -> tuple[State, str]:
    if request.param == "byte-level":
        bpe: tuple[State, str] = request.getfixturevalue("bpe")
        return bpe
    name = "ranks_file" if request.param == "ranks" else "sentencepiece_file"
    path: Path = request.getfixturevalue(name)
    imported = import_tokenizer(path)
    return imported.state, imported.end_of_text


@st.composite
def counts_of_entries(draw: st.DrawFn) -> np.ndarray:
    """Draw few distinct counts, so that equal ones are common."""
    seed, most = draw(st.integers(0, 2**32 - 1)), draw(st.sampled_from([0, 1, 5, 10**12]))
    return np.random.default_rng(seed).integers(0, most + 1, SIZE)


@settings(max_examples=40)
@given(st.data())
def test_every_cut_is_complete(large: tuple[State, str], data: st.DataObject) -> None:
    state, end_of_text = large
    counts = data.draw(counts_of_entries())
    size = data.draw(st.integers(256 + len(added(state)), SIZE))
    small, source_ids = cut(state, counts, size, end_of_text=end_of_text)
    vocab, old = small["model"]["vocab"], state["model"]["vocab"]

    assert sorted(vocab.values()) == list(range(size)), "dense ids, exactly the asked size"
    assert source_ids.dtype == np.int64
    assert (np.diff(source_ids) > 0).all()
    assert {entry: source_ids[at] for entry, at in vocab.items()} == {entry: old[entry] for entry in vocab}
    assert base_entries(state) | added(state).keys() <= vocab.keys()
    assert added(small) == {token: vocab[token] for token in added(state)}

    merges = {left + right: (left, right) for left, right in small["model"]["merges"]}
    order = [tuple(pair) for pair in state["model"]["merges"] if pair[0] + pair[1] in merges]
    assert order == [tuple(pair) for pair in small["model"]["merges"]], "the order of the merges stays"
    assert not dead_entries(small)
    tokenizer = open_tokenizer(small)
    for entry, (left, right) in merges.items():
        assert {left, right, entry} <= vocab.keys()
        assert [token.value for token in tokenizer.model.tokenize(entry)] == [entry], "it can be reached"

    text = data.draw(st.text())
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text
    assert not set(added(small).values()) & set(tokenizer.encode(text + end_of_text).ids)


@given(st.data())
@settings(max_examples=25)
def test_no_other_choice_was_more_frequent(large: tuple[State, str], data: st.DataObject) -> None:
    """An omitted entry whose path was kept at its turn is no more frequent than any included entry."""
    state, end_of_text = large
    counts = data.draw(counts_of_entries())
    size = data.draw(st.integers(256 + len(added(state)), SIZE))
    small, _ = cut(state, counts, size, end_of_text=end_of_text)
    vocab, old = small["model"]["vocab"], state["model"]["vocab"]
    parts = {left + right: (left, right) for left, right in state["model"]["merges"]}
    always = base_entries(state) | added(state).keys()
    needed_by_others = {part for entry in vocab for part in parts.get(entry, ())}
    chosen = [counts[old[entry]] for entry in vocab.keys() - always - needed_by_others]
    ready = [counts[old[entry]] for entry in old.keys() - vocab.keys() if set(parts.get(entry, ())) <= always]
    if chosen and ready:
        assert min(chosen) >= max(ready)


def test_the_full_size_is_the_identity(large: tuple[State, str]) -> None:
    state, end_of_text = large
    for keep in ("all", "used"):
        same, source_ids = cut(state, np.zeros(SIZE, dtype=np.int64), SIZE, end_of_text=end_of_text, keep_special=keep)
        assert same["model"] == state["model"]
        assert same == state
        assert source_ids.tolist() == list(range(SIZE))


def test_an_entry_includes_its_merge_path(bpe: tuple[State, str]) -> None:
    state, end_of_text = bpe
    vocab = state["model"]["vocab"]
    parts = {left + right: (left, right) for left, right in state["model"]["merges"]}

    def path(entry: str) -> set[str]:
        return {entry} | {part for piece in parts.get(entry, ()) for part in path(piece)}

    entry = max(vocab.keys() - added(state).keys(), key=len)
    needed = len(path(entry) - base_entries(state))
    assert needed > 3
    counts = np.zeros(SIZE, dtype=np.int64)
    counts[vocab[entry]] = 5
    fits, _ = cut(state, counts, 257 + needed, end_of_text=end_of_text)
    assert path(entry) <= fits["model"]["vocab"].keys()
    short, _ = cut(state, counts, 256 + needed, end_of_text=end_of_text)
    assert entry not in short["model"]["vocab"]


def test_text_is_encoded_with_the_kept_entries(bpe: tuple[State, str], texts: list[str]) -> None:
    """Where no dropped entry occurs, the encoding is that of the large tokenizer."""
    state, end_of_text = bpe
    counts = count_entries(state, SIZE, texts)
    small, source_ids = cut(state, counts, 590, end_of_text=end_of_text)
    kept = set(source_ids.tolist())
    before, after = open_tokenizer(state), open_tokenizer(small)
    same = 0
    for text in texts:
        ids = before.encode(text).ids
        if kept.issuperset(ids):
            assert source_ids[after.encode(text).ids].tolist() == ids
            same += 1
    assert same > 100


def test_used_special_tokens_are_those_that_were_counted(bpe: tuple[State, str]) -> None:
    state: dict[str, Any] = copy.deepcopy(bpe[0])
    for at in range(40):
        token = special_token(f"<extra {at}>", SIZE + at) | {"special": at > 1}
        state["added_tokens"].append(token)
        state["model"]["vocab"][token["content"]] = token["id"]
    counts = count_entries(state, SIZE + 40, ["plain <extra 0> and <extra 7>"])
    used, _ = cut(state, counts, 300, end_of_text=bpe[1], keep_special="used")
    assert added(used).keys() == {bpe[1], "<extra 0>"}, "extra 7 is special, so text cannot spell it"
    everything, _ = cut(state, counts, 300, end_of_text=bpe[1], keep_special="all")
    assert len(added(everything)) == 41


def _edges(state: State) -> Iterator[tuple[int, str]]:
    least = 256 + len(added(state))
    yield (
        least - 1,
        rf"tokenizer\.vocab_size={least - 1}: allowed: {least} \(256 bytes and {least - 256} special tokens\) to 600",
    )
    yield SIZE + 1, r"tokenizer\.vocab_size=601: allowed: .* to 600"


def test_impossible_sizes_are_refused(large: tuple[State, str]) -> None:
    for size, message in _edges(large[0]):
        with pytest.raises(UserError, match=message):
            cut(large[0], np.zeros(SIZE, dtype=np.int64), size, end_of_text=large[1])
