"""Byte-level BPE: sizes, round trips, determinism, and how text is split."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, pre_tokenizers

from tinylm_ablate.errors import UserError
from tinylm_ablate.formats.lossless import State, dead_entries, open_tokenizer
from tinylm_ablate.tokenizer.train import train_bpe, training_texts

SCRIPT = """
import hashlib, json, sys
from tinylm_ablate.tokenizer.train import train_bpe
state, _ = train_bpe(json.load(sys.stdin), 600)
print(hashlib.sha256(json.dumps(state).encode()).hexdigest())
"""


@pytest.mark.parametrize("size", [257, 258, 401, 600])
def test_any_size_of_at_least_the_bytes(texts: list[str], size: int) -> None:
    state, end_of_text = train_bpe(texts, size)
    vocab = state["model"]["vocab"]
    assert sorted(vocab.values()) == list(range(size))
    assert len(state["model"]["merges"]) == size - 257
    assert vocab[end_of_text] == 0
    assert not dead_entries(state)


@given(st.text())
def test_any_text_round_trips(bpe: tuple[State, str], text: str) -> None:
    tokenizer = _opened(bpe[0])
    ids = tokenizer.encode(text).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert 0 not in ids


_cache: dict[int, Tokenizer] = {}


def _opened(state: State) -> Tokenizer:
    return _cache.setdefault(id(state), open_tokenizer(state))


def test_another_process_trains_the_same(texts: list[str], bpe: tuple[State, str]) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], input=json.dumps(texts), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == hashlib.sha256(json.dumps(bpe[0]).encode()).hexdigest()


def test_the_split_keeps_scripts_digits_and_symbols_apart(bpe: tuple[State, str]) -> None:
    splitter = pre_tokenizers.Split(_regex(bpe[0]), "isolated")
    text = "It's 2024年，don't  使用Python编程 don't!\n\n e\u0301t\u00e9"
    pieces = [piece for piece, _ in splitter.pre_tokenize_str(text)]
    assert pieces == [
        "It", "'s", " ", "2", "0", "2", "4", "年", "，", "don", "'t", " ", " 使用", "Python", "编程", " don", "'t", "!", "\n\n",
        " e\u0301t\u00e9",
    ]  # fmt: skip


def _regex(state: State) -> Any:
    from tokenizers import Regex

    return Regex(state["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"])


def test_too_small_a_size_is_refused(texts: list[str]) -> None:
    with pytest.raises(UserError, match=r"tokenizer\.vocab_size=256: allowed: at least 257"):
        train_bpe(texts, 256)


def test_too_little_text_says_how_many_entries_were_reached() -> None:
    with pytest.raises(UserError, match=r"tokenizer\.vocab_size=5000: .* at most 26\d"):
        train_bpe(["hello hello hello"], 5000)


def test_training_text_is_bounded_in_each_language(small_text: Any) -> None:
    taken = list(training_texts(small_text, 1001))
    assert 2 * 995 < sum(len(text.encode()) for text in taken) <= 2 * 1001
    everything = list(training_texts(small_text, 10**9))
    assert everything == [document.text for document in small_text.documents("train")]
