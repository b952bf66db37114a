"""The three formats of large tokenizers, and other files."""

from __future__ import annotations

import base64
import functools
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tests.tokenizer.conftest import train_sentencepiece
from tinylm_ablate.errors import UserError
from tinylm_ablate.formats.importing import import_tokenizer, source_identity
from tinylm_ablate.formats.lossless import State, added, open_tokenizer


@functools.cache
def _opened(source: Path) -> Tokenizer:
    return open_tokenizer(import_tokenizer(source).state)


def test_a_tokenizer_json_or_its_folder_is_read(bpe: tuple[State, str], tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(bpe[0]))
    for source in (tmp_path, tmp_path / "tokenizer.json"):
        imported = import_tokenizer(source)
        assert (imported.state, imported.end_of_text, imported.format, imported.size) == (*bpe, "tokenizer.json", 600)


def test_older_files_are_read_too(bpe: tuple[State, str], tmp_path: Path) -> None:
    """Merges as "a b", and no newer fields."""
    state = json.loads(json.dumps(bpe[0]))
    state["model"] = {
        "type": "BPE",
        "vocab": state["model"]["vocab"],
        "merges": [" ".join(pair) for pair in bpe[0]["model"]["merges"]],
    }
    (tmp_path / "old.json").write_text(json.dumps(state))
    assert import_tokenizer(tmp_path / "old.json").state == bpe[0]


@pytest.mark.parametrize("eos", ["[STOP]", {"content": "[STOP]", "special": True}])
def test_the_config_beside_it_names_the_end_of_text(bpe: tuple[State, str], eos: object, tmp_path: Path) -> None:
    text = json.dumps(bpe[0]).replace("<|endoftext|>", "[STOP]")
    (tmp_path / "tokenizer.json").write_text(text)
    before = source_identity(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": eos}))
    assert source_identity(tmp_path) != before
    imported = import_tokenizer(tmp_path)
    assert imported.end_of_text == "[STOP]"
    assert imported.size == 600


def test_merges_are_recovered_from_ranks(ranks_file: Path, bpe: tuple[State, str]) -> None:
    imported = import_tokenizer(ranks_file)
    assert imported.format == "tiktoken"
    assert imported.state["model"]["merges"] == bpe[0]["model"]["merges"]
    assert not imported.state["model"]["ignore_merges"], "every entry is reached by merging"
    assert imported.size == 600
    assert imported.state["model"]["vocab"][imported.end_of_text] == 599, "behind the last rank"


@given(st.text())
def test_any_text_round_trips_with_ranks(ranks_file: Path, text: str) -> None:
    tokenizer = _opened(ranks_file)
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_whole_words_without_a_merge_path_are_kept(tmp_path: Path) -> None:
    """tiktoken looks up a whole word before it merges."""
    entries = [bytes([byte]) for byte in range(256)] + [b"hello"]
    (tmp_path / "r").write_bytes(b"".join(base64.b64encode(entry) + b" %d\n" % rank for rank, entry in enumerate(entries)))
    tokenizer = open_tokenizer(import_tokenizer(tmp_path / "r").state)
    assert tokenizer.encode("hello").ids == [256]
    assert len(tokenizer.encode("hello hello").ids) == 1 + 6


@pytest.mark.parametrize(("extra", "pieces"), [([b"12", b"123"], ["123", "45"]), ([], ["1", "2", "3", "4", "5"])])
def test_digits_are_split_as_the_ranks_require(extra: list[bytes], pieces: list[str], tmp_path: Path) -> None:
    entries = [bytes([byte]) for byte in range(256)] + extra
    (tmp_path / "r").write_bytes(b"".join(base64.b64encode(entry) + b" %d\n" % rank for rank, entry in enumerate(entries)))
    tokenizer = open_tokenizer(import_tokenizer(tmp_path / "r").state)
    assert [piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str("12345")] == pieces


@pytest.mark.parametrize(
    "options", [{}, {"add_dummy_prefix": False}, {"split_digits": True}, {"normalization_rule_name": "nmt_nfkc"}]
)
def test_sentencepiece_encodes_as_the_original(options: dict[str, object], texts: list[str], tmp_path: Path) -> None:
    import sentencepiece

    path = tmp_path / "small.model"
    path.write_bytes(train_sentencepiece(texts, **options))
    original = sentencepiece.SentencePieceProcessor(model_file=str(path))
    imported = import_tokenizer(path)
    tokenizer = open_tokenizer(imported.state)
    assert (imported.format, imported.end_of_text, imported.size) == ("sentencepiece", "</s>", 600)
    # Texts that NFKC changes are kept unchanged here, so they cannot agree.
    same = [text for text in texts if "nmt" not in str(options) or original.normalize(text) == "▁" + text.replace(" ", "▁")]
    assert len(same) > 100
    for text in [*same, "unseen: žluťoučký 🦊 鱻", "a\tb", "x"]:
        ids = tokenizer.encode(text).ids
        assert tokenizer.decode(ids, skip_special_tokens=False) == text
        if "nmt" not in str(options):
            assert ids == original.encode(text)
    for text in same:
        assert tokenizer.encode(text).ids == original.encode(text)


@given(st.text())
def test_any_text_round_trips_with_sentencepiece(sentencepiece_file: Path, text: str) -> None:
    tokenizer = _opened(sentencepiece_file)
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_symbols_of_a_sentencepiece_model_are_never_read_from_text(texts: list[str], tmp_path: Path) -> None:
    path = tmp_path / "symbols.model"
    path.write_bytes(train_sentencepiece(texts, control_symbols=["<c>"], user_defined_symbols=["<u>"]))
    imported = import_tokenizer(path)
    assert added(imported.state).keys() == {"<unk>", "<s>", "</s>", "<c>", "<u>"}
    tokenizer = open_tokenizer(imported.state)
    text = "a <u> b <c></s><unk><0x41>"
    ids = tokenizer.encode(text).ids
    assert not set(added(imported.state).values()) & set(ids)
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


class _Trap:
    """Unpickling it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[Path]]:
        return Path.touch, (self.path,)


def _truncated_model(texts: list[str]) -> bytes:
    return train_sentencepiece(texts)[:5000]


MALFORMED: dict[str, tuple[Callable[[list[str]], bytes], str]] = {
    "empty": (lambda _: b" \n", "is empty; expected a tokenizer.json"),
    "noise": (lambda _: bytes(range(255, 0, -1)) * 9, "unknown format; expected a tokenizer.json"),
    "words": (lambda _: b"once upon a time\n", "unknown format"),
    "truncated json": (lambda _: b'{"model": {"type": "BPE", "vo', "not readable as JSON"),
    "other json": (lambda _: b'{"name": "x"}', "has no `model`"),
    "model of nothing": (lambda _: b'{"model": {"type": "BPE"}}', "cannot read it"),
    "merge of unknown": (lambda _: b'{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}}', "cannot read it"),
    "unigram json": (lambda _: b'{"model": {"type": "Unigram", "vocab": []}}', "the model is Unigram; expected a BPE"),
    "bad utf-8": (lambda _: b'{"model": "\xff"}', "not readable as JSON"),
    "bad rank": (lambda _: b"YQ== 0\nYg== one\n", r"line 2 is b'Yg== one'; expected a Base64 entry, a space and its rank"),
    "bad base64": (lambda _: b"YQ== 0\nYgxxx 1\n", "line 2"),
    "ranks without bytes": (lambda _: b"YQ== 0\nYg== 1\n", "254 of the 256 bytes"),
    "repeated rank": (lambda _: b"".join(base64.b64encode(bytes([n])) + b" 7\n" for n in range(256)), "share an id"),
    "truncated model": (_truncated_model, "expected a tokenizer.json"),
    "unigram model": (lambda texts: train_sentencepiece(texts, model_type="unigram"), "expected --model_type=bpe"),
    "space as suffix": (
        lambda texts: train_sentencepiece(texts, treat_whitespace_as_suffix=True),
        "does not represent a space as",
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_files_are_reported_with_the_expected_content(name: str, texts: list[str], tmp_path: Path) -> None:
    make, message = MALFORMED[name]
    path = tmp_path / "source.file"
    path.write_bytes(make(texts))
    with pytest.raises(UserError, match=message) as caught:
        import_tokenizer(path)
    assert str(path) in str(caught.value)


def test_a_pickle_is_not_loaded(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.pkl").write_bytes(pickle.dumps(_Trap(tmp_path / "sprung")))
    with pytest.raises(UserError, match="unknown format"):
        import_tokenizer(tmp_path / "tokenizer.pkl")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("source", ["missing.json", "."])
def test_a_missing_file_is_reported(source: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tokenizer\.source=.*no such file .*expected a tokenizer\.json"):
        import_tokenizer(tmp_path / source)


def test_a_broken_neighbour_is_reported(bpe: tuple[State, str], tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(bpe[0]))
    (tmp_path / "tokenizer_config.json").write_text("[")
    with pytest.raises(UserError, match=r"tokenizer_config\.json: not readable as JSON"):
        import_tokenizer(tmp_path)
