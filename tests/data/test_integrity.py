"""Corpora and shards are checked by content: a flipped bit is found even if size and times of the file are unchanged."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinylm_ablate.config import DataConfig
from tinylm_ablate.data import integrity
from tinylm_ablate.data.corpus import SPLITS, open_corpus
from tinylm_ablate.data.shards import open_shards
from tinylm_ablate.errors import UserError


def flip(path: Path, place: int) -> None:
    """Flip a bit and restore the times, like a bad disk or a careless copy."""
    stat = path.stat()
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.fixture
def data(tmp_path: Path, data_config: Callable[..., DataConfig], texts: list[str]) -> DataConfig:
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return data_config(path)


@pytest.mark.parametrize("split", SPLITS)
def test_a_flipped_bit_is_found_and_the_fix_works(data: DataConfig, vocabulary, tmp_path: Path, split: str) -> None:
    cache = tmp_path / "cache"
    corpus = open_corpus(data, cache)
    shards = open_shards(corpus, vocabulary, cache)
    for folder, file in ((shards.folder, f"{split}.bin"), (corpus.folder, f"{split}.parquet")):
        flip(folder / file, 50)
        for _ in range(2):  # a second attempt does not trust it either
            with pytest.raises(UserError) as error:
                open_shards(open_corpus(data, cache), vocabulary, cache)
            assert str(error.value).startswith(f"{folder / file}: is damaged: the content of bytes 0 to ")
            assert f"Delete {folder}; it is built again" in str(error.value)
        for entry in folder.iterdir():
            entry.unlink()
        folder.rmdir()
        assert open_shards(open_corpus(data, cache), vocabulary, cache).fingerprint == shards.fingerprint


def test_a_changed_summary_is_not_trusted(data: DataConfig, vocabulary, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    corpus = open_corpus(data, cache)
    for folder, name in ((corpus.folder, "corpus.json"), (open_shards(corpus, vocabulary, cache).folder, "shards.json")):
        whole = (folder / name).read_text()
        (folder / name).write_text(whole.replace('"train": ', '"trains": ', 1))
        assert integrity.read_sealed(folder / name) is None
        open_shards(open_corpus(data, cache), vocabulary, cache)
        assert (folder / name).read_text() == whole


def test_checked_files_are_not_read_again(data: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    corpus = open_corpus(data, cache)
    read: list[Path] = []
    hashes = integrity._hashes
    monkeypatch.setattr(integrity, "_hashes", lambda path, size: read.append(path) or hashes(path, size))
    open_corpus(data, cache)
    assert read == []
    file = corpus.folder / "test.parquet"
    os.utime(file)
    open_corpus(data, cache)
    assert read == [file]
    monkeypatch.setattr(integrity.platform, "node", lambda: "another/machine")
    open_corpus(data, cache)
    assert len(read) == 4
    assert (corpus.folder / "checked.another-machine.json").exists()


@given(st.binary(max_size=300), st.integers(1, 64), st.data())
def test_each_block_has_a_hash_and_the_damaged_one_is_named(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, block: int, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("blocks")
    (folder / "file").write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(integrity, "BLOCK_BYTES", block)
        files = {"file": integrity.describe(folder / "file")}
        assert len(files["file"]["xxh3_128"]) == -(-len(content) // block)
        integrity.check(folder, files, "it")
        if content:
            place = data.draw(st.integers(0, len(content) - 1))
            flip(folder / "file", place)
            with pytest.raises(UserError, match=f"of bytes {place // block * block:,} to "):
                integrity.check(folder, files, "it")
