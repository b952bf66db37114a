"""Token shards: a corpus in a tokenizer's ids, one flat, memory-mapped file per split, built once and shared by all runs.

``cache_dir/shards/<fingerprint>/`` holds ``train.bin``, ``validation.bin`` and ``test.bin``, little-endian 16-bit numbers (or
32-bit, for vocabularies over 65,536) with the end-of-text id after each document, and ``shards.json``. If languages or
sources have their own shares of the training, train.bin holds them one after another.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tinylm_ablate import progress
from tinylm_ablate.data import integrity
from tinylm_ablate.data.corpus import SPLITS, Corpus
from tinylm_ablate.data.documents import Document
from tinylm_ablate.data.once import build_once
from tinylm_ablate.errors import UserError
from tinylm_ablate.files import fingerprint

#: Version of the format; increment it if the same corpus and tokenizer result in other files.
_FORMAT = 1
_SUMMARY = "shards.json"
#: Bytes of text per call of the tokenizer: enough documents to keep every core busy, and few enough for memory.
_BATCH_BYTES = 2_000_000
_BATCH_DOCUMENTS = 4_096
#: Concurrent calls: while the ids of one batch are converted to an array, the next is being encoded.
_IN_FLIGHT = 2


class Encoder(Protocol):
    """Interface of a vocabulary that shards need."""

    @property
    def size(self) -> int:
        """Number of ids."""

    @property
    def end_of_text(self) -> int:
        """The id that ends a document."""

    @property
    def fingerprint(self) -> str:
        """Identity: equal for vocabularies that encode identically."""

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Return the ids of each text, without special tokens."""


class Shards:
    """Open shards.

    Attributes:
        folder: Folder of the shards.
        fingerprint: Identity of corpus and tokenizer together.
        summary: ``tokens`` {split: n}; ``languages`` {split: {language: {documents, bytes, tokens}}}, where the tokens include
            one end of text per document; ``groups`` {name: {start, tokens, bytes}}, the parts of train.bin, if it is grouped;
            and ``files``, their hashes.
    """

    def __init__(self, folder: Path) -> None:
        summary = integrity.read_sealed(folder / _SUMMARY)
        if summary is None:
            raise UserError(f"{folder}: is damaged. Delete it; the token shards are built again")
        self.folder = folder
        self.summary: dict[str, Any] = summary
        self.fingerprint: str = summary["fingerprint"]

    def count(self, split: str) -> int:
        """Tokens in a split, including ends of text."""
        count: int = self.summary["tokens"][split]
        return count

    def tokens(self, split: str) -> np.memmap[Any, Any]:
        """Return the ids of a split (count,), memory-mapped and read-only."""
        if split not in SPLITS:
            raise ValueError(f"no split {split!r}; there are {', '.join(SPLITS)}")
        return np.memmap(self.folder / f"{split}.bin", dtype=self.summary["dtype"], mode="r")


def shards_folder(text: str, vocabulary: str, size: int, cache_dir: Path, group_by: str | None = None) -> Path:
    """Return the folder of the shards of a corpus in a tokenizer.

    Args:
        text: Fingerprint of the corpus.
        vocabulary: Fingerprint of the tokenizer.
        size: Entries of the tokenizer.
        cache_dir: Shared cache folder.
        group_by: "language" or "source" if the training split is grouped by it.
    """
    content: dict[str, Any] = {"format": _FORMAT, "text": text, "tokenizer": vocabulary, "dtype": _dtype(size), "size": size}
    return cache_dir / "shards" / fingerprint(content | ({"group_by": group_by} if group_by else {}))


def _dtype(size: int) -> str:
    return "<u2" if size <= 2**16 else "<u4"


def open_shards(corpus: Corpus, tokenizer: Encoder, cache_dir: Path, group_by: str | None = None) -> Shards:
    """Open the shards of a corpus in a tokenizer; build them first unless they are complete.

    Memory while building: a few batches of 2 MB of text with their ids, whatever the size of the corpus.

    Args:
        group_by: "language" or "source" to group the training split by it (``mixing.grouped_by``).

    Raises:
        UserError: The disk is full or cannot be written (no partial files are left); or a file is damaged.
    """
    dtype = _dtype(tokenizer.size)
    folder = shards_folder(corpus.fingerprint, tokenizer.fingerprint, tokenizer.size, cache_dir, group_by)
    # A byte-level token has at least one byte, so a corpus has at most as many tokens as bytes and documents.
    most = sum(corpus.bytes(split) + sum(corpus.summary["documents"][split].values()) for split in SPLITS)
    build_once(
        folder,
        is_whole=_is_whole,
        build=lambda unfinished: _build(unfinished, corpus, tokenizer, dtype, folder.name, group_by),
        needed=most * np.dtype(dtype).itemsize,
        what="the token shards",
    )
    shards = Shards(folder)
    integrity.check(folder, shards.summary["files"], "the token shards")
    return shards


def _is_whole(folder: Path) -> bool:
    return integrity.read_sealed(folder / _SUMMARY) is not None


def _build(folder: Path, corpus: Corpus, tokenizer: Encoder, dtype: str, identity: str, group_by: str | None) -> None:
    languages: dict[str, dict[str, dict[str, int]]] = {}
    groups: dict[str, dict[str, int]] = {}
    total = sum(corpus.bytes(split) for split in SPLITS)
    with progress.bar(total=total, description="tokenizing", unit="B") as bar:
        for split in SPLITS:
            counts = languages[split] = {
                language: {"documents": corpus.summary["documents"][split][language], "bytes": size, "tokens": 0}
                for language, size in corpus.summary["bytes"][split].items()
            }
            written = 0
            with (folder / f"{split}.bin").open("wb") as file:
                for name, documents in _parts(corpus, split, group_by):
                    group = {"start": written, "tokens": 0, "bytes": 0}
                    for batch, encoded, size in _encoded(documents, tokenizer):
                        for document, ids in zip(batch, encoded, strict=True):
                            ids.append(tokenizer.end_of_text)
                            counts[document.language]["tokens"] += len(ids)
                        length = sum(map(len, encoded))
                        file.write(np.fromiter(chain.from_iterable(encoded), dtype=dtype, count=length).data)
                        written += length
                        group["tokens"] += length
                        group["bytes"] += size
                        bar.update(size)
                    if name is not None:
                        groups[name] = group
    summary = {
        "format": _FORMAT,
        "fingerprint": identity,
        "text": corpus.fingerprint,
        "tokenizer": tokenizer.fingerprint,
        "vocab_size": tokenizer.size,
        "dtype": dtype,
        "tokens": {split: sum(entry["tokens"] for entry in languages[split].values()) for split in SPLITS},
        "languages": languages,
        "groups": groups,
        "files": {f"{split}.bin": integrity.describe(folder / f"{split}.bin") for split in SPLITS},
    }
    (folder / _SUMMARY).write_text(integrity.seal(summary), encoding="utf-8")


def _parts(corpus: Corpus, split: str, group_by: str | None) -> Iterator[tuple[str | None, Iterator[Document]]]:
    """Yield the documents of a split in their order, or of the training split group by group."""
    if split != "train" or group_by is None:
        yield None, corpus.documents(split)
    elif group_by == "language":
        for language in sorted(corpus.summary["documents"]["train"]):
            yield language, corpus.documents("train", language)
    else:
        for source in sorted(corpus.summary["by_source"]["train"]):
            yield source, corpus.documents("train", source=source)


def _encoded(documents: Iterator[Document], tokenizer: Encoder) -> Iterator[tuple[list[Document], list[list[int]], int]]:
    """Batches of documents with their ids and bytes, in order.

    The tokenizer releases the GIL, so a second batch keeps its threads busy meanwhile.
    """

    def encode(batch: list[Document]) -> list[list[int]]:
        return tokenizer.encode_batch([document.text for document in batch])

    with ThreadPoolExecutor(_IN_FLIGHT, thread_name_prefix="tokenize") as pool:
        waiting: deque[tuple[list[Document], Future[list[list[int]]], int]] = deque()
        try:
            for batch, size in _batched(documents):
                waiting.append((batch, pool.submit(encode, batch), size))
                if len(waiting) > _IN_FLIGHT:
                    done, future, length = waiting.popleft()
                    yield done, future.result(), length
            while waiting:
                done, future, length = waiting.popleft()
                yield done, future.result(), length
        finally:
            for _, future, _ in waiting:
                future.cancel()


def _batched(documents: Iterator[Document]) -> Iterator[tuple[list[Document], int]]:
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document.text.encode())
        if size >= _BATCH_BYTES or len(batch) >= _BATCH_DOCUMENTS:
            yield batch, size
            batch, size = [], 0
    if batch:
        yield batch, size
