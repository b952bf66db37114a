"""The exact form: what it drops and keeps, and that encodings are unchanged."""

from __future__ import annotations

import copy
import functools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tinylm_ablate.errors import UserError
from tinylm_ablate.formats.alphabet import BYTE_PIECES
from tinylm_ablate.formats.importing import import_tokenizer
from tinylm_ablate.formats.lossless import State, added, make_lossless, open_tokenizer, special_token
from tinylm_ablate.formats.merges import NEVER, last_pair, live_merges


def test_the_exact_form_is_idempotent(bpe: tuple[State, str]) -> None:
    assert make_lossless(bpe[0], "again") == bpe


def test_lossy_steps_are_dropped(bpe: tuple[State, str]) -> None:
    state = copy.deepcopy(bpe[0])
    state["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"}]}
    state["pre_tokenizer"]["pretokenizers"][-1]["add_prefix_space"] = True
    state["truncation"] = {"max_length": 3, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    state["model"]["dropout"] = 0.5
    state["added_tokens"].append(special_token("<mask>", 600) | {"lstrip": True, "special": False})
    exact, _ = make_lossless(state, "lossy")
    tokenizer = open_tokenizer(exact)
    text = "Ｆｕｌｌ ﬁ <mask> and  more words than three"
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text
    assert 600 in tokenizer.encode(text).ids
    assert exact["pre_tokenizer"] == bpe[0]["pre_tokenizer"]


@pytest.mark.parametrize("name", ["<|endoftext|>", "</s>", "<｜end▁of▁sentence｜>", "<|im_end|>"])
def test_known_end_of_text_tokens_are_found(bpe: tuple[State, str], name: str) -> None:
    state = copy.deepcopy(bpe[0])
    state["model"]["vocab"][name] = state["model"]["vocab"].pop("<|endoftext|>")
    state["added_tokens"] = [special_token(name, 0)]
    exact, found = make_lossless(state, "named")
    assert found == name
    assert len(exact["model"]["vocab"]) == 600


def test_an_end_of_text_token_is_added_where_there_is_none(bpe: tuple[State, str]) -> None:
    state = copy.deepcopy(bpe[0])
    del state["model"]["vocab"]["<|endoftext|>"]
    state["added_tokens"] = []
    exact, found = make_lossless(state, "none")
    assert found == "<|endoftext|>"
    assert open_tokenizer(exact).token_to_id(found) == 600


def test_an_unknown_end_of_text_token_can_be_named(bpe: tuple[State, str]) -> None:
    state = copy.deepcopy(bpe[0])
    state["model"]["vocab"]["[STOP]"] = state["model"]["vocab"].pop("<|endoftext|>")
    state["added_tokens"] = [special_token("[STOP]", 0)]
    assert make_lossless(state, "named", "[STOP]")[1] == "[STOP]"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"type": "WordPiece"}, "the model is WordPiece"),
        ({"end_of_word_suffix": "</w>"}, "BPE with marked word ends"),
        ({"vocab": {"a": 0, "b": 1}, "merges": []}, "254 of the 256 bytes"),
        ({"vocab": {"a": 0, "b": 0}, "merges": []}, "share an id"),
    ],
)
def test_models_that_cannot_write_every_text_are_refused(bpe: tuple[State, str], change: dict[str, Any], message: str) -> None:
    state = bpe[0] | {"model": bpe[0]["model"] | change, "added_tokens": []}
    with pytest.raises(UserError, match=f"^some file: .*{message}"):
        make_lossless(state, "some file")


def test_a_pre_tokenizer_that_loses_text_is_refused(bpe: tuple[State, str]) -> None:
    state = copy.deepcopy(bpe[0])
    state["pre_tokenizer"]["pretokenizers"].insert(0, {"type": "WhitespaceSplit"})
    with pytest.raises(UserError, match="some file: loses text"):
        make_lossless(state, "some file")


def test_text_cannot_spell_a_special_token(bpe: tuple[State, str]) -> None:
    state = copy.deepcopy(bpe[0])
    # A word that merges produce: as a special token, it must not be produced.
    word = max((entry for entry in state["model"]["vocab"] if entry.isascii() and entry.isalpha()), key=len)
    state["added_tokens"].append(special_token(word, state["model"]["vocab"][word]))
    exact, end_of_text = make_lossless(state, "special")
    tokenizer = open_tokenizer(exact)
    special = {token["id"] for token in exact["added_tokens"]}
    text = f"{word}{end_of_text}{word}"
    assert not special & set(tokenizer.encode(text).ids)
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text
    tokenizer.encode_special_tokens = False
    assert special <= set(tokenizer.encode(text).ids), "otherwise nothing was prevented"


def test_added_tokens_keep_their_ids_in_any_order(bpe: tuple[State, str]) -> None:
    state = copy.deepcopy(bpe[0])
    vocab = state["model"]["vocab"]
    state["model"]["vocab"] = {entry: at if at < 100 else at + 2 for entry, at in vocab.items()}
    state["added_tokens"] += [special_token("<a>", 100), special_token("<b>", 101)]
    tokenizer = open_tokenizer(make_lossless(state, "holes")[0])
    assert [tokenizer.token_to_id(token) for token in ("<a>", "<b>")] == [100, 101]
    assert tokenizer.id_to_token(102) == next(entry for entry, at in vocab.items() if at == 100)


def test_dead_merges_are_found() -> None:
    vocab = {entry: at for at, entry in enumerate(["a", "b", "c", "ab", "bc", "abc", "cab"])}
    merges = [("a", "b"), ("b", "c"), ("a", "bc"), ("ab", "c"), ("ca", "b"), ("c", "ab")]
    # a+bc never happens, since ab is merged first; ca is not an entry.
    assert live_merges(vocab, merges, set()) == [("a", "b"), ("b", "c"), ("ab", "c"), ("c", "ab")]
    assert live_merges(vocab, merges, {"abc"}) == [("a", "b"), ("b", "c"), ("c", "ab")]


def test_the_last_pair_follows_the_ranks() -> None:
    ranks = {"ab": 0, "bc": 1, "abc": 2, "zz": 3}
    assert last_pair("abc", lambda left, right: ranks.get(left + right, NEVER)) == ("ab", "c")
    assert last_pair("abz", lambda left, right: ranks.get(left + right, NEVER)) is None
    assert last_pair([b"z", b"z"], lambda *_: 3) == (b"z", b"z")


def test_several_merges_per_entry_encode_as_before(sentencepiece_file: Path, texts: list[str]) -> None:
    """A Llama-style tokenizer.json lists every way to split a piece; one is enough."""
    state = copy.deepcopy(import_tokenizer(sentencepiece_file).state)
    vocab = state["model"]["vocab"]
    special = added(state)
    order = {"".join(pair): at for at, pair in enumerate(state["model"]["merges"])}
    every = [
        [entry[:at], entry[at:]]
        for entry in sorted(order, key=order.__getitem__)
        for at in range(1, len(entry))
        if entry[:at] in vocab and entry[at:] in vocab and entry not in special
    ]
    assert len(every) > len(order)
    many = Tokenizer.from_str(json.dumps(state | {"model": state["model"] | {"merges": every}}))
    llama = state | {
        "model": state["model"] | {"merges": every},
        "pre_tokenizer": None,
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ]},
    }  # fmt: skip
    exact, _ = make_lossless(llama, "llama")
    assert exact == state
    few = open_tokenizer(exact)
    many.encode_special_tokens = True
    for text in texts[::7]:
        assert many.encode(text).ids == few.encode(text).ids


def test_byte_pieces_are_added_where_a_model_has_none(sentencepiece_file: Path) -> None:
    state = copy.deepcopy(import_tokenizer(sentencepiece_file).state)
    kept = {entry: at for entry, at in state["model"]["vocab"].items() if entry not in BYTE_PIECES}
    state["model"]["vocab"] = {entry: at for at, entry in enumerate(kept)}
    state["added_tokens"] = [token | {"id": at} for at, token in enumerate(state["added_tokens"])]
    exact, _ = make_lossless(state, "no bytes")
    assert [exact["model"]["vocab"][piece] for piece in BYTE_PIECES] == list(range(len(kept), len(kept) + 256))


@given(st.text(st.sampled_from("▁ \ue000\ue00101a中")))
def test_the_mark_of_a_space_is_not_taken_for_a_space(sentencepiece_file: Path, text: str) -> None:
    tokenizer = _opened(sentencepiece_file)
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


@functools.cache
def _opened(source: Path) -> Tokenizer:
    return open_tokenizer(import_tokenizer(source).state)
