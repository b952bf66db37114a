"""Documents -> a corpus: deduplicated, filtered, split by hash, written once, and streamed from then on.

A corpus is a folder with ``train.parquet``, ``validation.parquet`` and ``test.parquet`` (columns text, language, hash, source)
and ``corpus.json``. The same documents give the same files, byte for byte, with the same release of pyarrow.

Memory while building: a few row groups of text, and about 100 bytes per document for the hashes that find duplicates (1 GB for
ten million documents).
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from tinylm_ablate import progress
from tinylm_ablate.config import DataConfig
from tinylm_ablate.data import integrity
from tinylm_ablate.data.documents import Document, Source
from tinylm_ablate.data.languages import OTHER
from tinylm_ablate.data.mixing import check_names, grouped_by
from tinylm_ablate.data.near import NearDuplicates
from tinylm_ablate.data.once import build_once
from tinylm_ablate.data.readers import KINDS
from tinylm_ablate.data.sources import near_duplicates, open_source
from tinylm_ablate.errors import UserError
from tinylm_ablate.files import fingerprint

SPLITS = ("train", "validation", "test")

#: Version of the format; increment it if the same documents result in another corpus.
_FORMAT = 1
_SUMMARY = "corpus.json"
_COLUMNS = ("text", "language", "hash", "source")
#: Identified languages with a smaller share of the text count as "other": bits per byte of a handful of documents, most of them
#: misidentified, are meaningless. Languages named by the user are kept.
_LEAST_SHARE = 0.01
#: Documents per row group, which is the unit of reading and writing.
_GROUP_BYTES = 4_000_000
_GROUP_DOCUMENTS = 8_192
#: A column with more distinct values does not hold languages.
_MAX_LANGUAGES = 100


class Corpus:
    """An open corpus.

    Attributes:
        folder: Folder of the corpus.
        fingerprint: Identity of the corpus.
        summary: ``documents`` and ``bytes`` {split: {language: n}}; ``read``, ``duplicates``, ``near_duplicates``,
            ``too_short`` and ``other_languages`` (documents); ``grouped``, languages with too little text, counted as
            "other"; ``by_source`` {split: {source: {documents, bytes}}}; ``sources`` with their licenses; and ``files`` with
            their hashes.
        languages: All languages, sorted.
    """

    def __init__(self, folder: Path) -> None:
        summary = integrity.read_sealed(folder / _SUMMARY)
        if summary is None:
            raise UserError(f"{folder}: is damaged. Delete it; the corpus is built again")
        self.folder = folder
        self.summary: dict[str, Any] = summary
        self.fingerprint: str = summary["fingerprint"]
        self.languages: list[str] = sorted({language for counts in summary["documents"].values() for language in counts})

    def documents(self, split: str, language: str | None = None, source: str | None = None) -> Iterator[Document]:
        """Yield documents of a split in a fixed order, optionally of one language or source; holds one row group at a time."""
        import pyarrow.compute
        import pyarrow.parquet

        if split not in SPLITS:
            raise ValueError(f"no split {split!r}; there are {', '.join(SPLITS)}")
        grouped = set(self.summary["grouped"])
        with pyarrow.parquet.ParquetFile(str(self.folder / f"{split}.parquet")) as file:
            for group in range(file.num_row_groups):
                rows = file.read_row_group(group)
                if source is not None:
                    rows = rows.filter(pyarrow.compute.equal(rows["source"], source))
                for text, label, digest, part in zip(*(rows[name].to_pylist() for name in _COLUMNS), strict=True):
                    label = OTHER if label in grouped else label
                    if language is None or label == language:
                        yield Document(text, label, digest, part)

    def bytes(self, split: str, language: str | None = None) -> int:
        """UTF-8 bytes of text in a split, of one language or of all."""
        counts: dict[str, int] = self.summary["bytes"][split]
        return counts.get(language, 0) if language is not None else sum(counts.values())


def text_fingerprint(data: DataConfig, cache_dir: Path) -> str:
    """Identity of the corpus: a fingerprint of its source's content and of all settings that affect it.

    Nothing is built or fetched; the user's own files are hashed once, and again only if they change.

    Raises:
        ConfigError: The settings of ``data`` contradict each other.
        UserError: The user's files are missing, empty or unreadable.
    """
    return _fingerprint(data, open_source(data, cache_dir))


def _fingerprint(data: DataConfig, source: Source) -> str:
    return fingerprint({"format": _FORMAT, "source": source.identity()} | _settings(data))


def _settings(data: DataConfig) -> dict[str, Any]:
    """Return the settings that decide which documents are kept, and in which split."""
    kept = {name: getattr(data, name) for name in ("max_documents", "min_characters", "validation_share", "test_share")}
    chosen: dict[str, Any] = {"languages": sorted(set(data.languages))} if data.languages else {}
    similarity = near_duplicates(data)
    return kept | chosen | ({"near_duplicates": similarity} if similarity is not None else {})


def open_corpus(data: DataConfig, cache_dir: Path) -> Corpus:
    """Open the corpus of ``data``; build it first, in ``cache_dir/text/<fingerprint>``, unless it is complete.

    Raises:
        ConfigError: The settings of ``data`` contradict each other.
        UserError: The text cannot be read, a split would be empty, or the disk is full (no partial files are left); or a
            file is damaged, or ``data.weights`` does not match the languages or sources of the text.
    """
    source = open_source(data, cache_dir)
    identity = _fingerprint(data, source)

    def build(folder: Path) -> None:
        _build(folder, data, source, identity)
        if text_fingerprint(data, cache_dir) != identity:
            raise UserError(f"data.path={data.path}: the text changed while it was read; run again when it no longer changes")

    folder = cache_dir / "text" / identity
    build_once(folder, is_whole=_is_whole, build=build, needed=source.bytes_estimate(), what="the corpus")
    corpus = Corpus(folder)
    integrity.check(folder, corpus.summary["files"], "the corpus")
    corpus.summary["sources"] = described(corpus.summary, source)
    if data.weights:
        counted = corpus.summary["by_source" if grouped_by(data) == "source" else "documents"]
        check_names(data, counted["train"])
    return corpus


def _is_whole(folder: Path) -> bool:
    return integrity.read_sealed(folder / _SUMMARY) is not None


def split_of(digest: bytes, validation_share: float, test_share: float) -> str:
    """Split of a document, from the first 8 bytes of its hash, so that equal texts are always in the same split."""
    place = int.from_bytes(digest[:8], "big") / 2**64
    if place < test_share:
        return "test"
    return "validation" if place < test_share + validation_share else "train"


def _build(folder: Path, data: DataConfig, source: Source, identity: str) -> None:
    seen: set[bytes] = set()
    similarity = near_duplicates(data)
    near = NearDuplicates(similarity) if similarity is not None else None
    writers = {split: _SplitWriter(folder / f"{split}.parquet") for split in SPLITS}
    read = 0
    dropped = dict.fromkeys(("too_short", "duplicates", "near_duplicates", "other_languages"), 0)
    estimate = source.bytes_estimate() if data.max_documents is None else None
    try:
        with progress.bar(total=estimate, description="reading text", unit="B") as bar:
            for document in islice(source.documents(), data.max_documents):
                read += 1
                text = document.text.strip()
                content = text.encode()
                bar.update(len(content))
                if data.languages and document.language not in data.languages:
                    dropped["other_languages"] += 1
                    continue
                if len(text) < data.min_characters:
                    dropped["too_short"] += 1
                    continue
                digest = hashlib.sha256(content).digest()[:16]
                if digest in seen:
                    dropped["duplicates"] += 1
                    continue
                seen.add(digest)
                if near is not None and near.seen(text):
                    dropped["near_duplicates"] += 1
                    continue
                split = split_of(digest, data.validation_share, data.test_share)
                writers[split].add(Document(text, document.language, digest.hex(), document.source), len(content))
                if data.language_column and len(writers[split].documents) > _MAX_LANGUAGES:
                    raise UserError(
                        f"data.language_column={data.language_column}: holds more than {_MAX_LANGUAGES} different values; "
                        "set it to the column with the language, or to null"
                    )
    finally:
        for writer in writers.values():
            writer.close()
    counts = {split: sum(writers[split].documents.values()) for split in SPLITS}
    near_fate = f", {dropped['near_duplicates']:,} near duplicates" if near is not None else ""
    fate = (
        f"{read:,} documents were read, {dropped['too_short']:,} shorter than data.min_characters={data.min_characters}, "
        f"{dropped['duplicates']:,} duplicates{near_fate}, {sum(counts.values()):,} left"
    )
    _check_splits(data, counts, fate + (f", of data.languages={data.languages}" if data.languages else ""))
    sizes = {split: writers[split].bytes for split in SPLITS}
    grouped = _too_small(sizes) if _identified(data) else []
    summary: dict[str, Any] = {
        "format": _FORMAT,
        "fingerprint": identity,
        "documents": {split: _summed(writers[split].documents, grouped) for split in SPLITS},
        "bytes": {split: _summed(sizes[split], grouped) for split in SPLITS},
        "read": read,
        **dropped,
        "grouped": grouped,
        "by_source": {split: dict(sorted(writers[split].by_source.items())) for split in SPLITS},
        "settings": _settings(data),
        "sources": source.description(),
        "files": {path.name: integrity.describe(path) for path in sorted(folder.glob("*.parquet"))},
    }
    (folder / _SUMMARY).write_text(integrity.seal(summary), encoding="utf-8")
    print(f"text: {fate}", file=sys.stderr)
    for line in passed_over_lines(passed_over(summary["sources"])):
        print(line, file=sys.stderr)


def described(summary: dict[str, Any], source: Source) -> list[dict[str, Any]]:
    """Return the descriptions of a corpus's sources as they are now.

    It may have been built from another folder with the same text, or before files that are not read were added. A source that
    describes other parts, such as a user-defined one that knows them only after reading, keeps the descriptions of then.
    """
    before, now = summary["sources"], source.description()
    return [old | new for old, new in zip(before, now, strict=True)] if len(before) == len(now) else list(before)


def passed_over(sources: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Return the files that were not read, {kind: {files, bytes}}, from the descriptions of the sources."""
    counted: dict[str, dict[str, int]] = {}
    for source in sources:
        for kind, entry in source.get("passed_over", {}).items():
            total = counted.setdefault(kind, {"files": 0, "bytes": 0})
            total["files"] += entry["files"]
            total["bytes"] += entry["bytes"]
    return dict(sorted(counted.items()))


def passed_over_lines(counted: dict[str, dict[str, int]]) -> list[str]:
    """Describe the files that were not read, in at most one line."""
    if not counted:
        return []
    kinds = ", ".join(f"{entry['files']:,} {kind} ({entry['bytes']:,} bytes)" for kind, entry in counted.items())
    return [f"not read: {kinds}; supported formats: {KINDS}"]


def _identified(data: DataConfig) -> bool:
    """Return whether languages are identified from the text, rather than named or selected by the user."""
    return (
        data.source in ("files", "hub", "mixture")
        and data.language == "auto"
        and not data.language_column
        and not data.languages
    )


def _too_small(sizes: dict[str, dict[str, int]]) -> list[str]:
    """Languages with less than ``_LEAST_SHARE`` of all bytes, sorted."""
    totals: dict[str, int] = {}
    for counts in sizes.values():
        for language, size in counts.items():
            totals[language] = totals.get(language, 0) + size
    least = _LEAST_SHARE * sum(totals.values())
    return sorted(language for language, size in totals.items() if size < least and language != OTHER)


def _summed(counts: dict[str, int], grouped: list[str]) -> dict[str, int]:
    """Counts by language, with those of ``grouped`` combined as "other"."""
    summed: dict[str, int] = {}
    for language, count in sorted(counts.items()):
        name = OTHER if language in grouped else language
        summed[name] = summed.get(name, 0) + count
    return dict(sorted(summed.items()))


class _SplitWriter:
    """Writes one split, a row group at a time, and counts documents and bytes by language."""

    def __init__(self, path: Path) -> None:
        import pyarrow
        import pyarrow.parquet

        self._schema = pyarrow.schema([(name, pyarrow.string()) for name in _COLUMNS])
        # Statistics would include the smallest and largest text of each group.
        self._file = pyarrow.parquet.ParquetWriter(
            str(path), self._schema, compression="zstd", use_dictionary=["language", "source"], write_statistics=False
        )
        self._table: Callable[..., Any] = pyarrow.table
        self._group: list[tuple[str, str, str, str]] = []
        self._group_bytes = 0
        self.documents: dict[str, int] = {}
        self.bytes: dict[str, int] = {}
        self.by_source: dict[str, dict[str, int]] = {}

    def add(self, document: Document, size: int) -> None:
        """Write a document of ``size`` bytes."""
        self._group.append((document.text, document.language, document.hash, document.source))
        self._group_bytes += size
        self.documents[document.language] = self.documents.get(document.language, 0) + 1
        self.bytes[document.language] = self.bytes.get(document.language, 0) + size
        entry = self.by_source.setdefault(document.source, {"documents": 0, "bytes": 0})
        entry["documents"] += 1
        entry["bytes"] += size
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
        UserError: A split is empty; the message has the counts, the shares and the fix.
    """
    if all(counts.values()):
        return
    if not sum(counts.values()):
        chosen = ", or choose other data.languages" if data.languages else ""
        raise UserError(f"no document is left to train on: {fate}. Provide more text, lower data.min_characters{chosen}")
    raise UserError(
        f"too few documents: {fate}: {counts['train']:,} for train, {counts['validation']:,} for validation "
        f"(data.validation_share={data.validation_share:g}) and {counts['test']:,} for test "
        f"(data.test_share={data.test_share:g}). "
        "Each needs at least one. Provide more documents, or raise the shares (data.validation_share=0.2 data.test_share=0.2)"
    )
