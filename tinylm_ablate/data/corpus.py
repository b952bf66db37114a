"""Documents -> a corpus: deduplicated, filtered, split by hash, written once, and streamed from then on.

A corpus is a folder with ``train.parquet``, ``validation.parquet`` and ``test.parquet`` (columns text, language, hash) and
``corpus.json``. The same text gives the same files, byte for byte, under the same release of pyarrow.

Memory while building: a few row groups of text, and about 100 bytes a document for the hashes that find duplicates (1 GB for
ten million documents).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from tinylm_ablate import progress
from tinylm_ablate.config import DataConfig
from tinylm_ablate.data.documents import Document, Source
from tinylm_ablate.data.once import build_once
from tinylm_ablate.data.sources import open_source
from tinylm_ablate.errors import UserError
from tinylm_ablate.files import fingerprint, sha256_file

SPLITS = ("train", "validation", "test")

#: Raised by hand when the same documents come to give another corpus.
_FORMAT = 1
_SUMMARY = "corpus.json"
#: A row group is written, and read again, at once.
_GROUP_BYTES = 4_000_000
_GROUP_DOCUMENTS = 8_192
#: More kinds than this and the column holds something else than languages.
_MAX_LANGUAGES = 100


class Corpus:
    """An open corpus.

    Attributes:
        folder: Where it lies.
        fingerprint: Identity of the text.
        summary: ``documents`` and ``bytes`` {split: {language: n}}, ``read``, ``duplicates``, ``too_short`` and
            ``other_languages`` (documents), ``sources`` with their licences, and ``files`` {name: {bytes, sha256}}.
        languages: All languages, sorted.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.summary: dict[str, Any] = json.loads((folder / _SUMMARY).read_text())
        self.fingerprint: str = self.summary["fingerprint"]
        self.languages: list[str] = sorted({language for counts in self.summary["documents"].values() for language in counts})

    def documents(self, split: str, language: str | None = None) -> Iterator[Document]:
        """The documents of a split, of one language or of all, in a fixed order; one row group is held at a time."""
        import pyarrow.compute
        import pyarrow.parquet

        if split not in SPLITS:
            raise ValueError(f"no split {split!r}; there are {', '.join(SPLITS)}")
        with pyarrow.parquet.ParquetFile(str(self.folder / f"{split}.parquet")) as file:
            for group in range(file.num_row_groups):
                rows = file.read_row_group(group)
                if language is not None:
                    rows = rows.filter(pyarrow.compute.equal(rows["language"], language))
                yield from map(Document, *(rows[name].to_pylist() for name in ("text", "language", "hash")))

    def bytes(self, split: str, language: str | None = None) -> int:
        """UTF-8 bytes of text in a split, of one language or of all."""
        counts: dict[str, int] = self.summary["bytes"][split]
        return counts.get(language, 0) if language is not None else sum(counts.values())


def text_fingerprint(data: DataConfig, cache_dir: Path) -> str:
    """Identity of the text: of its source's content and of every setting that decides what becomes of it.

    Nothing is built or fetched; the user's own files are hashed, once while they stay as they are.

    Raises:
        ConfigError: The settings of ``data`` contradict each other.
        UserError: The user's files are missing, empty or unreadable.
    """
    return _fingerprint(data, open_source(data, cache_dir))


def _fingerprint(data: DataConfig, source: Source) -> str:
    return fingerprint({"format": _FORMAT, "source": source.identity()} | _settings(data))


def _settings(data: DataConfig) -> dict[str, Any]:
    """What decides which documents are kept, and in which split; the languages only where they are chosen."""
    kept = {name: getattr(data, name) for name in ("max_documents", "min_characters", "validation_share", "test_share")}
    return kept | ({"languages": sorted(set(data.languages))} if data.languages else {})


def open_corpus(data: DataConfig, cache_dir: Path) -> Corpus:
    """Open the corpus of ``data``; build it first, in ``cache_dir/text/<fingerprint>``, if it is not there whole.

    Raises:
        ConfigError: The settings of ``data`` contradict each other.
        UserError: The text cannot be read, a split would be empty, or the disk is full; nothing half-built is left.
    """
    source = open_source(data, cache_dir)
    identity = _fingerprint(data, source)

    def build(folder: Path) -> None:
        _build(folder, data, source, identity)
        if text_fingerprint(data, cache_dir) != identity:
            raise UserError(f"data.path={data.path}: the text changed while it was read; run again when it stays as it is")

    folder = cache_dir / "text" / identity
    build_once(folder, is_whole=_is_whole, build=build, needed=source.bytes_estimate(), what="the text")
    return Corpus(folder)


def _is_whole(folder: Path) -> bool:
    try:
        files = json.loads((folder / _SUMMARY).read_text())["files"]
        return all((folder / name).stat().st_size == entry["bytes"] for name, entry in files.items())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def split_of(digest: bytes, validation_share: float, test_share: float) -> str:
    """The split of a document, from the first 8 bytes of its hash: the same wherever and whenever the text turns up."""
    place = int.from_bytes(digest[:8], "big") / 2**64
    if place < test_share:
        return "test"
    return "validation" if place < test_share + validation_share else "train"


def _build(folder: Path, data: DataConfig, source: Source, identity: str) -> None:
    seen: set[bytes] = set()
    writers = {split: _SplitWriter(folder / f"{split}.parquet") for split in SPLITS}
    read = too_short = duplicates = other = 0
    estimate = source.bytes_estimate() if data.max_documents is None else None
    try:
        with progress.bar(total=estimate, description="reading text", unit="B") as bar:
            for document in islice(source.documents(), data.max_documents):
                read += 1
                text = document.text.strip()
                content = text.encode()
                bar.update(len(content))
                if data.languages and document.language not in data.languages:
                    other += 1
                    continue
                if len(text) < data.min_characters:
                    too_short += 1
                    continue
                digest = hashlib.sha256(content).digest()[:16]
                if digest in seen:
                    duplicates += 1
                    continue
                seen.add(digest)
                split = split_of(digest, data.validation_share, data.test_share)
                writers[split].add(text, document.language, digest.hex(), len(content))
                if len(writers[split].documents) > _MAX_LANGUAGES:
                    raise UserError(
                        f"data.language_column={data.language_column}: holds more than {_MAX_LANGUAGES} different values; "
                        "set it to the column that holds the language, or to null"
                    )
    finally:
        for writer in writers.values():
            writer.close()
    counts = {split: sum(writers[split].documents.values()) for split in SPLITS}
    fate = (
        f"{read:,} documents were read, {too_short:,} shorter than data.min_characters={data.min_characters}, "
        f"{duplicates:,} duplicates, {sum(counts.values()):,} left"
    )
    _check_splits(data, counts, fate + (f", of data.languages={data.languages}" if data.languages else ""))
    summary = {
        "format": _FORMAT,
        "fingerprint": identity,
        "documents": {split: dict(sorted(writers[split].documents.items())) for split in SPLITS},
        "bytes": {split: dict(sorted(writers[split].bytes.items())) for split in SPLITS},
        "read": read,
        "too_short": too_short,
        "duplicates": duplicates,
        "other_languages": other,
        "settings": _settings(data),
        "sources": source.description(),
        "files": {
            path.name: {"bytes": path.stat().st_size, "sha256": sha256_file(path)} for path in sorted(folder.glob("*.parquet"))
        },
    }
    (folder / _SUMMARY).write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


class _SplitWriter:
    """Writes one split a row group at a time, and counts documents and bytes by language."""

    def __init__(self, path: Path) -> None:
        import pyarrow
        import pyarrow.parquet

        self._schema = pyarrow.schema([(name, pyarrow.string()) for name in ("text", "language", "hash")])
        # Statistics would hold the least and greatest text of each group.
        self._file = pyarrow.parquet.ParquetWriter(
            str(path), self._schema, compression="zstd", use_dictionary=["language"], write_statistics=False
        )
        self._table: Callable[..., Any] = pyarrow.table
        self._group: list[tuple[str, str, str]] = []
        self._group_bytes = 0
        self.documents: dict[str, int] = {}
        self.bytes: dict[str, int] = {}

    def add(self, text: str, language: str, digest: str, size: int) -> None:
        self._group.append((text, language, digest))
        self._group_bytes += size
        self.documents[language] = self.documents.get(language, 0) + 1
        self.bytes[language] = self.bytes.get(language, 0) + size
        if self._group_bytes >= _GROUP_BYTES or len(self._group) >= _GROUP_DOCUMENTS:
            self._flush()

    def close(self) -> None:
        try:
            if self._group:
                self._flush()
        finally:
            self._file.close()

    def _flush(self) -> None:
        columns = [list(column) for column in zip(*self._group, strict=True)]
        self._file.write_table(self._table(columns, schema=self._schema))
        self._group.clear()
        self._group_bytes = 0


def _check_splits(data: DataConfig, counts: dict[str, int], fate: str) -> None:
    """Refuse a corpus in which a split is empty.

    Raises:
        UserError: With the counts, the shares and the fix.
    """
    if all(counts.values()):
        return
    if not sum(counts.values()):
        raise UserError(f"no document is left to train on: {fate}. Give more text, or lower data.min_characters")
    raise UserError(
        f"too few documents: {fate}: {counts['train']:,} for train, {counts['validation']:,} for validation "
        f"(data.validation_share={data.validation_share:g}) and {counts['test']:,} for test "
        f"(data.test_share={data.test_share:g}). "
        "Each needs one at least. Give more documents, or raise the shares (data.validation_share=0.2 data.test_share=0.2)"
    )
