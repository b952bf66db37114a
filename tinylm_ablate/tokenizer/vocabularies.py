"""Vocabularies from ``conf/tokenizer``: built once per identity, then opened from the cache."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinylm_ablate.config import TokenizerConfig
from tinylm_ablate.data.once import build_once
from tinylm_ablate.errors import UserError
from tinylm_ablate.files import fingerprint
from tinylm_ablate.formats.importing import import_tokenizer, source_identity
from tinylm_ablate.formats.lossless import State, added, open_tokenizer
from tinylm_ablate.progress import bar
from tinylm_ablate.tokenizer.train import MIN_VOCAB_SIZE, train_bpe, training_texts

if TYPE_CHECKING:
    import numpy as np

    from tinylm_ablate.data.corpus import Corpus
    from tinylm_ablate.tokenizer.vocabulary import Vocabulary

#: Version of the format; increment it if the same settings result in another vocabulary.
_FORMAT = 2
#: Bytes of validation text per language for measuring bytes per token.
_SAMPLE_BYTES = 1_000_000
_NO_SOURCE = (
    "tokenizer.source=null: tokenizer.kind=file needs a file: tokenizer.json, tiktoken ranks, GGUF or a SentencePiece model"
)


def mistakes(config: TokenizerConfig, vocab_size: int, source_vocab_size: int) -> list[str]:
    """Return mistakes that can be found before any text is read, one line each.

    Args:
        config: The settings.
        vocab_size, source_vocab_size: The sizes that the settings result in at the scale.
    """
    if config.kind == "bpe":
        too_small = f"tokenizer.vocab_size={vocab_size}: allowed: at least {MIN_VOCAB_SIZE}"
        return [too_small] if vocab_size < MIN_VOCAB_SIZE else []
    if config.kind == "file" and config.source is None:
        return [_NO_SOURCE]
    most, special, of = source_vocab_size, 1, "tokenizer.source_vocab_size"
    if config.source is not None:
        try:
            imported = import_tokenizer(config.source)
        except UserError as error:
            return [str(error)]
        most, special, of = len(imported.state["model"]["vocab"]), len(added(imported.state)), "the entries of tokenizer.source"
    if config.kind == "file":
        return []
    if most < MIN_VOCAB_SIZE:
        return [f"tokenizer.source_vocab_size={most}: allowed: at least {MIN_VOCAB_SIZE}"]
    kept_special = special if config.keep_special == "all" else 1
    if 256 + kept_special <= vocab_size <= most:
        return []
    allowed = f"{256 + kept_special:,} (256 bytes and {kept_special:,} special) to {most:,} ({of})"
    hint = "; tokenizer.keep_special=used keeps fewer special tokens" if kept_special > 1 else ""
    return [f"tokenizer.vocab_size={vocab_size}: allowed: {allowed}{hint}"]


def resolved_size(config: TokenizerConfig, vocab_size: int) -> int:
    """Number of entries of the vocabulary: the file's for kind=file, otherwise as requested."""
    if config.kind != "file":
        return vocab_size
    if config.source is None:
        raise UserError(_NO_SOURCE)
    return import_tokenizer(config.source).size


def vocabulary_fingerprint(config: TokenizerConfig, vocab_size: int, source_vocab_size: int, text_fingerprint: str) -> str:
    """Return the identity of the vocabulary of ``open_vocabulary``, without building it.

    Raises:
        UserError: The source is missing.
    """
    identity: dict[str, Any] = {"format": _FORMAT, "kind": config.kind, "text": text_fingerprint}
    if config.kind == "file":
        if config.source is None:
            raise UserError(_NO_SOURCE)
        identity |= {"source": source_identity(config.source)}
    else:
        identity |= {"vocab_size": vocab_size, "train_bytes": config.train_bytes}
    if config.kind == "compact":
        source = source_vocab_size if config.source is None else source_identity(config.source)
        identity |= {"source": source, "keep_special": config.keep_special}
        if config.source is None and config.source_train_bytes is not None:
            identity |= {"source_train_bytes": config.source_train_bytes}
    return fingerprint(identity)


def open_vocabulary(
    config: TokenizerConfig, vocab_size: int, source_vocab_size: int, corpus: Corpus, cache_dir: Path, *, large: bool = False
) -> Vocabulary:
    """Open the requested vocabulary; build it first if it is not in the cache.

    For kind=compact, the large tokenizer and its counts are cached too, under their own identities, so that all vocabularies
    cut from it share them.

    Args:
        config: The settings, except for the two sizes.
        vocab_size: Number of entries, including special tokens; unused for kind=file.
        source_vocab_size: Entries of the large tokenizer if kind=compact has no source.
        corpus: The corpus.
        cache_dir: Holds ``tokenizers/<fingerprint>/``.
        large: Whether ``vocab_size`` comes from ``tokenizer.source_vocab_size``, for messages.

    Raises:
        UserError: A size is impossible, a source is missing or malformed, or there is too little text.
    """
    from tinylm_ablate.tokenizer.vocabulary import Vocabulary, is_whole, write_vocabulary

    if wrong := mistakes(config, vocab_size, source_vocab_size):
        raise UserError("\n".join(wrong))
    identity = vocabulary_fingerprint(config, vocab_size, source_vocab_size, corpus.fingerprint)
    folder = cache_dir / "tokenizers" / identity

    def build(unfinished: Path) -> None:
        made = _make(config, vocab_size, source_vocab_size, corpus, cache_dir, large=large)
        write_vocabulary(unfinished, made.state, made.end_of_text, identity, _summary(made, config, corpus), made.source_ids)

    build_once(folder, is_whole=is_whole, build=build, needed=None, what="the vocabulary")
    return Vocabulary(folder)


def large_vocabulary(config: TokenizerConfig, source_vocab_size: int, corpus: Corpus, cache_dir: Path) -> Vocabulary:
    """Return the large tokenizer for kind=compact: the imported source, or a BPE trained with ``source_vocab_size`` entries."""
    train_bytes = config.train_bytes if config.source_train_bytes is None else config.source_train_bytes
    large = dataclasses.replace(config, kind="bpe" if config.source is None else "file", train_bytes=train_bytes)
    return open_vocabulary(large, source_vocab_size, source_vocab_size, corpus, cache_dir, large=True)


def open_counts(large: Vocabulary, corpus: Corpus, train_bytes: int, cache_dir: Path) -> np.ndarray:
    """Count occurrences of each entry of a large vocabulary in the training text, once.

    Args:
        large: The vocabulary.
        corpus: The corpus.
        train_bytes: Bytes to count per language.
        cache_dir: Holds ``tokenizers/<fingerprint of the counts>/counts.npy``.

    Returns:
        Counts by id, shape (large.size,), int64.
    """
    import numpy as np

    from tinylm_ablate.tokenizer.count import count_entries

    identity = fingerprint(
        {"format": _FORMAT, "counts of": large.fingerprint, "text": corpus.fingerprint, "train_bytes": train_bytes}
    )
    folder = cache_dir / "tokenizers" / identity
    file = folder / "counts.npy"

    def counted(folder: Path) -> bool:
        try:
            return bool(np.load(folder / file.name, mmap_mode="r", allow_pickle=False).shape == (large.size,))
        except (OSError, ValueError):
            return False

    def build(unfinished: Path) -> None:
        texts = _watched(training_texts(corpus, train_bytes), "counting tokens")
        np.save(unfinished / file.name, count_entries(large.state, large.size, texts), allow_pickle=False)

    build_once(folder, is_whole=counted, build=build, needed=None, what="the counts of the large vocabulary")
    return np.asarray(np.load(file, allow_pickle=False))


@dataclasses.dataclass(frozen=True)
class _Made:
    """A vocabulary before it is written."""

    state: State
    end_of_text: str
    source_ids: np.ndarray | None = None
    source_vocab_size: int | None = None
    accumulated_frequency_percent: float | None = None


def _make(
    config: TokenizerConfig, vocab_size: int, source_vocab_size: int, corpus: Corpus, cache_dir: Path, *, large: bool
) -> _Made:
    if config.kind == "bpe":
        texts = _watched(training_texts(corpus, config.train_bytes), f"training a BPE of {vocab_size:,}")
        return _Made(*train_bpe(texts, vocab_size, "tokenizer.source_vocab_size" if large else "tokenizer.vocab_size"))
    if config.kind == "file":
        assert config.source is not None, "mistakes() reports it"
        imported = import_tokenizer(config.source)
        return _Made(imported.state, imported.end_of_text)
    from tinylm_ablate.tokenizer.compact import cut
    from tinylm_ablate.tokenizer.frequency import covered

    source = large_vocabulary(config, source_vocab_size, corpus, cache_dir)
    counts = open_counts(source, corpus, config.train_bytes, cache_dir)
    end_of_text = str(source.tokenizer.id_to_token(source.end_of_text))
    state, source_ids = cut(source.state, counts, vocab_size, end_of_text=end_of_text, keep_special=config.keep_special)
    return _Made(state, end_of_text, source_ids, len(source.state["model"]["vocab"]), covered(counts, source_ids))


def _summary(made: _Made, config: TokenizerConfig, corpus: Corpus) -> dict[str, Any]:
    return {
        "kind": config.kind,
        "source": None if config.kind == "bpe" or config.source is None else Path(config.source).name,
        "vocab_size": max(made.state["model"]["vocab"].values()) + 1,
        "source_vocab_size": made.source_vocab_size,
        "special_tokens": len(made.state["added_tokens"]),
        "bytes_per_token": bytes_per_token(made.state, corpus),
        "accumulated_frequency_percent": made.accumulated_frequency_percent,
    }


def bytes_per_token(state: State, corpus: Corpus) -> dict[str, float | None]:
    """UTF-8 bytes per token by language, on the first megabyte of each language's validation text; None without text."""
    tokenizer = open_tokenizer(state)
    found: dict[str, float | None] = {}
    for language in corpus.languages:
        sizes = tokens = 0
        texts = (document.text for document in corpus.documents("validation", language))
        while sizes < _SAMPLE_BYTES and (batch := list(itertools.islice(texts, 64))):
            sizes += sum(len(text.encode()) for text in batch)
            tokens += sum(len(encoding.ids) for encoding in tokenizer.encode_batch_fast(batch, add_special_tokens=False))
        found[language] = round(sizes / tokens, 4) if tokens else None
    return found


def _watched(texts: Iterable[str], description: str) -> Iterator[str]:
    """Yield the texts and show their bytes in a progress bar."""
    with bar(description=description, unit="B") as shown:
        for text in texts:
            yield text
            shown.update(len(text.encode()))
