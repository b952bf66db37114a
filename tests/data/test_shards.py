from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tinylm_ablate.config import DataConfig
from tinylm_ablate.data import shards as module
from tinylm_ablate.data.batches import Batches
from tinylm_ablate.data.corpus import SPLITS, Corpus, open_corpus
from tinylm_ablate.data.shards import open_shards
from tinylm_ablate.errors import UserError


@pytest.fixture
def made(tmp_path: Path, data_config: Callable[..., DataConfig], texts: list[str]) -> Corpus:
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return open_corpus(data_config(path), tmp_path / "cache")


def test_shards_hold_the_documents_in_order(made: Corpus, vocabulary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BATCH_BYTES", 2000)  # many concurrent batches
    shards = open_shards(made, vocabulary, tmp_path / "cache")
    for split in SPLITS:
        tokens = shards.tokens(split)
        assert tokens.dtype == np.uint16 and not tokens.flags.writeable
        assert len(tokens) == shards.count(split)
        documents = list(made.documents(split))
        decoded = vocabulary.decode(tokens.tolist()).split("<end>")
        assert decoded == [document.text for document in documents] + [""]
        for language, entry in shards.summary["languages"][split].items():
            chosen = [document.text for document in documents if document.language == language]
            assert entry == {
                "documents": len(chosen),
                "bytes": sum(len(text.encode()) for text in chosen),
                "tokens": sum(len(ids) + 1 for ids in vocabulary.encode_batch(chosen)),
            }
    with pytest.raises(ValueError, match="no split 'dev'"):
        shards.tokens("dev")
    assert Batches(shards.tokens("train"), 32, 0, 0).inputs(np.arange(4)).max() < vocabulary.size


def test_batching_changes_no_byte(made: Corpus, vocabulary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = open_shards(made, vocabulary, tmp_path / "one")
    monkeypatch.setattr(module, "_BATCH_DOCUMENTS", 3)
    pieces = open_shards(made, vocabulary, tmp_path / "two")
    assert whole.fingerprint == pieces.fingerprint
    for split in SPLITS:
        assert (whole.folder / f"{split}.bin").read_bytes() == (pieces.folder / f"{split}.bin").read_bytes()


def test_shards_are_built_once_per_text_and_tokenizer(made: Corpus, vocabulary, texts: list[str], tmp_path: Path) -> None:
    shards = open_shards(made, vocabulary, tmp_path / "cache")
    calls = vocabulary.calls
    assert open_shards(made, vocabulary, tmp_path / "cache").fingerprint == shards.fingerprint
    assert vocabulary.calls == calls
    other = open_shards(made, type(vocabulary)(texts, 350), tmp_path / "cache")
    assert other.fingerprint != shards.fingerprint
    # A truncated file is not trusted but recreated.
    file = shards.folder / "train.bin"
    content = file.read_bytes()
    file.write_bytes(content[:-2])
    assert open_shards(made, vocabulary, tmp_path / "cache").count("train") * 2 == len(content)
    assert file.read_bytes() == content and vocabulary.calls > calls


def test_large_vocabularies_need_four_bytes_per_token(made: Corpus, tmp_path: Path) -> None:
    def encode_batch(batch: list[str]) -> list[list[int]]:
        return [[65_536 + len(text)] for text in batch]

    for size, dtype in ((65_536, np.uint16), (65_537, np.uint32), (200_000, np.uint32)):
        stand_in = SimpleNamespace(size=size, end_of_text=7, fingerprint="f", encode_batch=encode_batch)
        if dtype == np.uint16:
            stand_in.encode_batch = lambda batch: [[65_535] for _ in batch]
        tokens = open_shards(made, stand_in, tmp_path / "cache").tokens("test")
        assert tokens.dtype == dtype
        first = next(iter(made.documents("test")))
        assert tokens[:2].tolist() == [65_535 if dtype == np.uint16 else 65_536 + len(first.text), 7]


def test_failure_in_the_middle_leaves_nothing(
    made: Corpus, vocabulary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BATCH_DOCUMENTS", 10)
    calls = 0

    def encode_batch(batch: list[str]) -> list[list[int]]:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise OSError(28, "No space left on device")
        return vocabulary.encode_batch(batch)

    stand_in = SimpleNamespace(size=vocabulary.size, end_of_text=0, fingerprint="f", encode_batch=encode_batch)
    with pytest.raises(UserError, match=r"shards: no space for the token shards: about [\d,]+ bytes are needed"):
        open_shards(made, stand_in, tmp_path / "cache")
    assert [path for path in (tmp_path / "cache" / "shards").iterdir() if path.is_dir()] == []
    assert open_shards(made, stand_in, tmp_path / "cache").count("train") > 0
