"""Summary of a corpus: documents read, kept and dropped, and how often a budget passes over what was kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tinylm_ablate.config import DataConfig
from tinylm_ablate.data.corpus import SPLITS, Corpus, passed_over, passed_over_lines
from tinylm_ablate.data.mixing import groups_of
from tinylm_ablate.data.shards import Shards

#: Up to so many passes, repeated text is about as good as new (Muennighoff et al. 2023, arXiv 2305.16264).
MANY_PASSES = 4.0

#: Why documents were dropped, in words.
_DROPPED = {
    "too_short": "too short", "duplicates": "duplicates", "near_duplicates": "near duplicates",
    "other_languages": "of other languages",
}  # fmt: skip


def fate(counted: Mapping[str, Any]) -> str:
    """Documents that were dropped, by reason, in words."""
    dropped = [f"{counted[key]:,} {reason}" for key, reason in _DROPPED.items() if counted[key]]
    return ", ".join(dropped) or "none dropped"


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
        return [
            f"text: {self.read:,} documents read, {self.kept:,} kept ({fate(vars(self))})",
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
        **{name: counted[name] for name in _DROPPED},
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
