"""Counting by pieces gives the same counts as encoding every text as a whole."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.tokenizer.conftest import make_text
from tinylm_ablate.formats.importing import import_tokenizer
from tinylm_ablate.formats.lossless import State, open_tokenizer, special_token
from tinylm_ablate.tokenizer import count
from tinylm_ablate.tokenizer.count import count_entries
from tinylm_ablate.tokenizer.junctions import Junctions

SIZE = 600


@pytest.fixture(scope="module", params=["byte-level", "ranks", "sentencepiece"])
def state(request: pytest.FixtureRequest) -> State:
    if request.param == "byte-level":
        return request.getfixturevalue("bpe")[0]
    path: Path = request.getfixturevalue("ranks_file" if request.param == "ranks" else "sentencepiece_file")
    return import_tokenizer(path).state


def directly(state: State, texts: Iterable[str]) -> np.ndarray:
    tokenizer = open_tokenizer(state)
    ids = [identity for text in texts for identity in tokenizer.encode(text).ids]
    return np.bincount(np.array(ids, dtype=np.int64), minlength=SIZE)


#: Characters at whose boundaries pre-tokenizers and merges act.
TEXT = st.text(st.sampled_from("the ns'dt.,(\"\n\r\t 今天很好模型，。“12３a\u0301é\u3000🦊▁"))


@settings(max_examples=60)
@given(st.lists(st.one_of(TEXT, st.text())))
@example(["'s今", "don't 'so (the", "!(the.\n\n the", "", "今天很好，模型。", "12 345 the12今12"])
def test_pieces_of_any_text_add_up(state: State, texts: list[str]) -> None:
    """Test the pieces themselves, without the slow fallback."""
    encoder = count._Encoder(state, SIZE)
    pieces = Junctions(state).pieces(texts)
    assert np.array_equal(encoder.pieces(count.Counter(pieces)), directly(state, texts))


def test_counts_equal_those_of_the_text(state: State, texts: list[str]) -> None:
    counts = count_entries(state, SIZE, iter(texts))
    assert counts.dtype == np.int64
    assert np.array_equal(counts, directly(state, texts))
    assert len(Junctions(state).pieces(texts)) > 3 * len(set(Junctions(state).pieces(texts))), "or nothing is gained"


def test_small_batches_give_the_same_counts(state: State, texts: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    expected = count_entries(state, SIZE, texts)
    monkeypatch.setattr(count, "_BATCH_CHARACTERS", 1000)
    monkeypatch.setattr(count, "_HELD_PIECES", 50)
    assert np.array_equal(count_entries(state, SIZE, texts), expected)


def test_only_one_batch_of_text_is_in_memory(bpe: tuple[State, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(count, "_BATCH_CHARACTERS", 5000)
    alive = most = 0

    class Text(str):
        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def endless() -> Iterator[str]:
        nonlocal alive, most
        for seed in range(300):
            alive += 1
            most = max(most, alive)
            yield Text(make_text("en", 1, seed)[0])

    count_entries(bpe[0], SIZE, endless())
    assert most < 60


def test_an_unforeseen_pre_tokenizer_is_counted_the_slow_way(bpe: tuple[State, str], texts: list[str]) -> None:
    """One that counts characters from the beginning of a text depends on text before every cut."""
    state = copy.deepcopy(bpe[0])
    state["pre_tokenizer"]["pretokenizers"][0] = {"type": "FixedLength", "length": 7}
    by_pieces = count._Encoder(state, SIZE).pieces(count.Counter(Junctions(state).pieces(texts)))
    assert not np.array_equal(by_pieces, directly(state, texts))
    assert np.array_equal(count_entries(state, SIZE, texts), directly(state, texts))


def test_ordinary_added_tokens_are_counted(bpe: tuple[State, str], texts: list[str]) -> None:
    """They are found before the text is split, so no cut may divide them."""
    state = copy.deepcopy(bpe[0])
    for at, content in enumerate(["<think>", "模型，训练", " the river"]):
        state["added_tokens"].append(special_token(content, SIZE + at) | {"special": False})
        state["model"]["vocab"][content] = SIZE + at
    state["model"]["vocab"]["鱻鱻"] = SIZE + 3  # an entry outside the byte alphabet
    mixed = [*texts, "a<think>b <think>!", "语言模型，训练模型"] * 2
    by_pieces = count._Encoder(state, SIZE + 4).pieces(count.Counter(Junctions(state).pieces(mixed)))
    assert np.array_equal(by_pieces[:SIZE], directly(state, mixed)[:SIZE])
    assert by_pieces[SIZE:].tolist()[:2] == [4, 2]
    assert by_pieces[SIZE + 2] > 50


def test_no_text_counts_nothing(state: State) -> None:
    assert count_entries(state, SIZE, []).sum() == 0
    assert count_entries(state, SIZE, ["", ""]).sum() == 0


def test_counts_beyond_32_bits(bpe: tuple[State, str]) -> None:
    encoder = count._Encoder(bpe[0], SIZE)
    assert encoder.pieces(count.Counter({"a": 2**40, "!a": 3})).sum() == 2**40 + 2 * 3
