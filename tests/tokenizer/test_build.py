"""From settings to an opened vocabulary: every kind, created once, with its record, identity and mistakes."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinylm_ablate.config import TokenizerConfig
from tinylm_ablate.errors import UserError
from tinylm_ablate.tokenizer import vocabularies as build
from tinylm_ablate.tokenizer.vocabularies import (
    large_vocabulary,
    mistakes,
    open_counts,
    open_vocabulary,
    resolved_size,
    vocabulary_fingerprint,
)
from tinylm_ablate.tokenizer.vocabulary import Vocabulary

Opener = Callable[..., Vocabulary]


@pytest.fixture
def opened(settings: TokenizerConfig, small_text: Any, tmp_path: Path) -> Opener:
    """``opened(400, kind="compact")``: returns a vocabulary in a separate cache."""

    def open_one(vocab_size: int, source_vocab_size: int = 600, **changes: Any) -> Vocabulary:
        config = dataclasses.replace(settings, **changes)
        return open_vocabulary(config, vocab_size, source_vocab_size, small_text, tmp_path)

    return open_one


def check(vocabulary: Vocabulary, corpus: Any) -> None:
    """Check what holds for vocabularies of any kind."""
    texts = [document.text for document in corpus.documents("test")] + ["", "𠮷 ﬁ\x00 unseen ☃", "<|endoftext|></s>"]
    encoded = vocabulary.encode_batch(texts)
    assert encoded == [vocabulary.encode(text) for text in texts]
    assert [vocabulary.decode(ids) for ids in encoded] == texts
    assert all(0 <= identity < vocabulary.size for ids in encoded for identity in ids)
    assert not any(vocabulary.special_ids & set(ids) for ids in encoded)
    assert vocabulary.end_of_text in vocabulary.special_ids
    assert vocabulary.summary["vocab_size"] == vocabulary.size
    assert set(vocabulary.summary["bytes_per_token"]) == {"en", "zh"}
    assert vocabulary.tokenizer.get_vocab_size() == vocabulary.size


def test_a_bpe(opened: Opener, small_text: Any) -> None:
    vocabulary = opened(400)
    check(vocabulary, small_text)
    assert vocabulary.size == 400
    assert vocabulary.source_ids is None
    summary = vocabulary.summary
    assert (summary["kind"], summary["source_vocab_size"], summary["accumulated_frequency_percent"]) == ("bpe", None, None)
    for language in ("en", "zh"):
        texts = [document.text for document in small_text.documents("validation", language)]
        rate = sum(len(text.encode()) for text in texts) / sum(map(len, vocabulary.encode_batch(texts)))
        assert summary["bytes_per_token"][language] == pytest.approx(rate, abs=1e-4)
        assert rate > 1.5


def test_a_compact_vocabulary_is_cut_from_a_bpe_of_the_same_text(
    opened: Opener, small_text: Any, settings: TokenizerConfig, tmp_path: Path
) -> None:
    vocabulary = opened(400, kind="compact")
    check(vocabulary, small_text)
    large = opened(600)
    counts = open_counts(large, small_text, settings.train_bytes, tmp_path)
    assert vocabulary.source_ids is not None
    assert vocabulary.source_ids.shape == (400,)
    assert [vocabulary.tokenizer.id_to_token(at) for at in range(400)] == [
        large.tokenizer.id_to_token(at) for at in vocabulary.source_ids.tolist()
    ]
    assert vocabulary.summary["source_vocab_size"] == 600
    share = 100 * counts[vocabulary.source_ids].sum() / counts.sum()
    assert vocabulary.summary["accumulated_frequency_percent"] == pytest.approx(share)
    assert 50 < share < 100
    whole = opened(600, kind="compact")
    assert whole.state == large.state
    assert whole.summary["accumulated_frequency_percent"] == 100


def test_a_large_vocabulary_of_less_text_has_a_longer_tail(opened: Opener, small_text: Any) -> None:
    """It has as many entries, and the kept ones cover more; counts and cut are from the whole text as before."""
    usual, short = opened(400, kind="compact"), opened(400, kind="compact", source_train_bytes=10_000)
    check(short, small_text)
    assert short.fingerprint != usual.fingerprint
    assert short.summary["source_vocab_size"] == usual.summary["source_vocab_size"] == 600
    assert short.summary["accumulated_frequency_percent"] > usual.summary["accumulated_frequency_percent"]
    assert opened(400, source_train_bytes=10_000).fingerprint == opened(400).fingerprint  # it does not apply to kind=bpe


def test_the_large_vocabulary_is_trained_and_counted_once(
    opened: Opener, small_text: Any, settings: TokenizerConfig, tmp_path: Path
) -> None:
    opened(400, kind="compact")
    train_reads = small_text.reads
    folders = set((tmp_path / "tokenizers").iterdir())
    opened(500, kind="compact")
    assert small_text.reads - train_reads == 2, "validation text of two languages, for bytes per token"
    assert len(set((tmp_path / "tokenizers").iterdir()) - folders) <= 2, "one folder, and its lock"
    large = large_vocabulary(settings, 600, small_text, tmp_path)
    assert large.fingerprint == opened(600).fingerprint


@pytest.mark.parametrize("source", ["ranks_file", "sentencepiece_file"])
@pytest.mark.parametrize("kind", ["compact", "file"])
def test_an_imported_one(source: str, kind: str, opened: Opener, small_text: Any, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(source)
    vocabulary = opened(350, source_vocab_size=0, kind=kind, source=str(path))
    check(vocabulary, small_text)
    assert vocabulary.size == (350 if kind == "compact" else 600)
    assert vocabulary.summary["source"] == path.name
    assert vocabulary.summary["source_vocab_size"] == (600 if kind == "compact" else None)


def test_opening_again_creates_nothing(opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    first = opened(400)
    monkeypatch.setattr(build, "_make", None)
    again = opened(400)
    assert again.fingerprint == first.fingerprint == first.folder.name
    assert again.summary == first.summary


@pytest.mark.parametrize("damage", ["tokenizer.json", "vocabulary.json", "source_ids.npy"])
def test_a_damaged_folder_is_recreated(damage: str, opened: Opener) -> None:
    vocabulary = opened(400, kind="compact")
    whole = (vocabulary.folder / damage).read_bytes()
    (vocabulary.folder / damage).write_bytes(whole[: len(whole) // 2])
    again = opened(400, kind="compact")
    assert (again.folder / damage).read_bytes() == whole


def test_damaged_counts_are_recomputed(opened: Opener, tmp_path: Path) -> None:
    vocabulary = opened(400, kind="compact")
    (counts,) = (tmp_path / "tokenizers").glob("*/counts.npy")
    counts.write_bytes(counts.read_bytes()[:100])
    (vocabulary.folder / "vocabulary.json").unlink()
    assert opened(400, kind="compact").summary == vocabulary.summary


def test_a_folder_that_is_no_vocabulary_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{tmp_path}: is not a vocabulary"):
        Vocabulary(tmp_path)


def test_other_programs_read_the_same_ids(opened: Opener, small_text: Any, sentencepiece_file: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    for vocabulary in (opened(400), opened(400, kind="compact"), opened(350, kind="compact", source=str(sentencepiece_file))):
        other = PreTrainedTokenizerFast(tokenizer_file=str(vocabulary.folder / "tokenizer.json"))
        assert len(other) == vocabulary.size
        for document in small_text.documents("test"):
            ids = other(document.text)["input_ids"]
            assert ids == vocabulary.encode(document.text)
            assert other.decode(ids, clean_up_tokenization_spaces=False) == document.text
        assert other.convert_ids_to_tokens(vocabulary.end_of_text) in ("<|endoftext|>", "</s>")


def test_the_identity_depends_on_what_changes_the_vocabulary(
    settings: TokenizerConfig, ranks_file: Path, tmp_path: Path
) -> None:
    copied = tmp_path / ranks_file.name
    copied.write_bytes(ranks_file.read_bytes())
    identity = functools.partial(_identity, settings)
    assert identity() == identity(source_vocab_size=7, keep_special="used"), "unused by kind=bpe"
    assert identity(kind="file", source=str(copied)) == identity(kind="file", source=str(ranks_file), vocab_size=9)
    found = [
        identity(), identity(vocab_size=401), identity(text="other"), identity(train_bytes=5), identity(kind="compact"),
        identity(kind="compact", source_vocab_size=700), identity(kind="compact", keep_special="used"),
        identity(kind="compact", source=str(ranks_file)), identity(kind="file", source=str(ranks_file)),
    ]  # fmt: skip
    assert len(set(found)) == len(found)


def _identity(
    settings: TokenizerConfig, vocab_size: int = 400, source_vocab_size: int = 600, text: str = "small", **changes: Any
) -> str:
    return vocabulary_fingerprint(dataclasses.replace(settings, **changes), vocab_size, source_vocab_size, text)


@pytest.mark.parametrize(
    ("changes", "sizes", "message"),
    [
        ({}, (256, 0), "tokenizer.vocab_size=256: allowed: at least 257"),
        ({"kind": "compact"}, (256, 600), "tokenizer.vocab_size=256: allowed: 257 (256 bytes and 1 special) to 600"),
        ({"kind": "compact"}, (601, 600), "tokenizer.vocab_size=601: allowed: 257"),
        ({"kind": "compact"}, (257, 256), "tokenizer.source_vocab_size=256: allowed: at least 257"),
        ({"kind": "file"}, (300, 0), "tokenizer.source=null: tokenizer.kind=file needs a file"),
        ({"kind": "file", "source": "/no/such"}, (300, 0), "tokenizer.source=/no/such: no such file"),
        ({"kind": "compact", "source": "/no/such"}, (300, 0), "tokenizer.source=/no/such: no such file"),
    ],
)  # fmt: skip
def test_mistakes_are_reported_before_text_is_read(
    changes: dict[str, Any], sizes: tuple[int, int], message: str, settings: TokenizerConfig, opened: Opener, small_text: Any
) -> None:
    (mistake,) = mistakes(dataclasses.replace(settings, **changes), *sizes)
    assert mistake.startswith(message)
    with pytest.raises(UserError) as raised:
        opened(*sizes, **changes)
    assert str(raised.value) == mistake
    assert small_text.reads == 0


def test_sizes_are_compared_with_the_imported_source(settings: TokenizerConfig, sentencepiece_file: Path) -> None:
    config = dataclasses.replace(settings, kind="compact", source=str(sentencepiece_file))
    assert mistakes(config, 259, 0) == mistakes(config, 600, 0) == []
    (mistake,) = mistakes(config, 258, 0)
    assert mistake == (
        "tokenizer.vocab_size=258: allowed: 259 (256 bytes and 3 special) to 600 (the entries of tokenizer.source)"
        "; tokenizer.keep_special=used keeps fewer special tokens"
    )
    assert mistakes(dataclasses.replace(config, keep_special="used"), 257, 0) == []
    assert resolved_size(config, 300) == 300
    assert resolved_size(dataclasses.replace(config, kind="file"), 300) == 600


def test_too_little_text_is_reported_and_leaves_nothing(opened: Opener, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tokenizer\.vocab_size=50000: the text is too short .* at most"):
        opened(50_000)
    with pytest.raises(UserError, match=r"^tokenizer\.source_vocab_size=50000: the text is too short .* at most"):
        opened(400, 50_000, kind="compact")
    assert not [path for path in (tmp_path / "tokenizers").iterdir() if path.is_dir()]


def test_the_record_is_plain_json(opened: Opener) -> None:
    vocabulary = opened(400, kind="compact")
    record = json.loads((vocabulary.folder / "vocabulary.json").read_text())
    assert record["summary"] == vocabulary.summary
    stored = np.load(vocabulary.folder / "source_ids.npy", allow_pickle=False)
    assert stored.dtype == np.int64
