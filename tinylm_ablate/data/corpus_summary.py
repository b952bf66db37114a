"""What became of a text: documents read, kept and dropped, and how often a budget passes over what was kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tinylm_ablate.config import DataConfig
from tinylm_ablate.data.corpus import SPLITS, Corpus, passed_over, passed_over_lines
from tinylm_ablate.data.mixing import groups_of
from tinylm_ablate.data.shards import Shards
from tinylm_ablate.data.sources import open_source


@dataclass(frozen=True)
class LanguageSummary:
    """A language, over all splits.

    Attributes:
        language: Its label.
        documents: Documents that were kept.
        bytes: UTF-8 bytes of their text.
        tokens: Their tokens, ends of text included.
    """

    language: str
    documents: int
    bytes: int
    tokens: int


@dataclass(frozen=True)
class CorpusSummary:
    """A text as it is trained on.

    Attributes:
        read, kept, too_short, duplicates, near_duplicates, other_languages: Documents.
        languages: By language, sorted.
        train_tokens: Tokens of the training split.
        passes: How often a budget passes over the training split: {"all": n}, or by language or source with ``data.weights``.
        passed_over: Files that were not read, {kind: {files, bytes}}.
    """

    read: int
    kept: int
    too_short: int
    duplicates: int
    near_duplicates: int
    other_languages: int
    languages: tuple[LanguageSummary, ...]
    train_tokens: int
    passes: dict[str, float]
    passed_over: dict[str, dict[str, int]]

    def lines(self) -> list[str]:
        """The summary in words, a few lines."""
        dropped = {
            "too short": self.too_short,
            "duplicates": self.duplicates,
            "near duplicates": self.near_duplicates,
            "of other languages": self.other_languages,
        }
        told = ", ".join(f"{count:,} {name}" for name, count in dropped.items() if count) or "none dropped"
        return [
            f"text: {self.read:,} documents read, {self.kept:,} kept ({told})",
            *(
                f"  {entry.language}: {entry.documents:,} documents, {entry.bytes / 1e6:,.1f} MB, {entry.tokens:,} tokens"
                for entry in self.languages
            ),
            f"passes over {self.train_tokens:,} training tokens: {passes_in_words(self.passes)}",
            *passed_over_lines(self.passed_over),
        ]


def summarize(data: DataConfig, corpus: Corpus, shards: Shards, tokens: int) -> CorpusSummary:
    """Summarize an open corpus and its shards for a budget of ``tokens``."""
    counted = corpus.summary
    languages = tuple(
        LanguageSummary(
            language,
            *(sum(shards.summary["languages"][split].get(language, {}).get(key, 0) for split in SPLITS) for key in _COUNTED),
        )
        for language in corpus.languages
    )
    return CorpusSummary(
        read=counted["read"],
        kept=sum(entry.documents for entry in languages),
        **{name: counted[name] for name in ("too_short", "duplicates", "near_duplicates", "other_languages")},
        languages=languages,
        train_tokens=shards.count("train"),
        passes=passes(data, shards, tokens),
        passed_over=passed_over(counted["sources"]),
    )


_COUNTED = ("documents", "bytes", "tokens")


def passes(data: DataConfig, shards: Shards, tokens: int) -> dict[str, float]:
    """How often a budget of ``tokens`` passes over the training split, as a whole or by group of ``data.weights``."""
    groups = groups_of(data, shards.summary["groups"])
    if not groups:
        return {"all": tokens / shards.count("train")}
    return {group.name: tokens * group.share / group.tokens for group in groups}


def passes_in_words(passes: dict[str, float]) -> str:
    """Passes for a line of a plan: "0.8", or "en 0.8, zh 1.2"."""
    return ", ".join(f"{count:.2g}" if name == "all" else f"{name} {count:.2g}" for name, count in passes.items())


def files_passed_over(data: DataConfig, cache_dir: Path) -> dict[str, dict[str, int]]:
    """The files that a text would leave out, {kind: {files, bytes}}, before anything is read.

    Raises:
        ConfigError: The settings of ``data`` contradict each other.
        UserError: The files are missing, empty or unreadable.
    """
    return passed_over(open_source(data, cache_dir).description())
