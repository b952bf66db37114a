"""Summary of a corpus: documents read, kept and dropped, and the number of epochs for a budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tinylm_ablate.config import DataConfig
from tinylm_ablate.data.corpus import SPLITS, Corpus, passed_over, passed_over_lines
from tinylm_ablate.data.mixing import groups_of
from tinylm_ablate.data.shards import Shards

#: Up to this number of epochs, repeated text is about as good as new (Muennighoff et al. 2023, arXiv 2305.16264).
MANY_PASSES = 4.0

#: Reasons for dropping documents, for messages.
_DROPPED = {
    "too_short": "too short", "duplicates": "duplicates", "near_duplicates": "near duplicates",
    "other_languages": "in other languages",
}  # fmt: skip


def fate(counted: Mapping[str, Any]) -> str:
    """Describe the dropped documents by reason."""
    dropped = [f"{counted[key]:,} {reason}" for key, reason in _DROPPED.items() if counted[key]]
    return ", ".join(dropped) or "none dropped"


@dataclass(frozen=True)
class LanguageSummary:
    """Statistics of one language, over all splits.

    Attributes:
        language: Its label.
        documents: Number of documents kept.
        bytes: UTF-8 bytes of their text.
        tokens: Their tokens, including ends of text.
    """

    language: str
    documents: int
    bytes: int
    tokens: int


@dataclass(frozen=True)
class CorpusSummary:
    """Statistics of a corpus and a training budget.

    Attributes:
        read, kept, too_short, duplicates, near_duplicates, other_languages: Numbers of documents.
        languages: Statistics by language, sorted.
        train_tokens: Tokens of the training split.
        passes: Epochs over the training split for a budget: {"all": n}, or by language or source with ``data.weights``.
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
        """The summary as text, a few lines."""
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
        passes=passes_by_group(data, shards.count("train"), shards.summary["groups"], tokens),
        passed_over=passed_over(counted["sources"]),
    )


_COUNTED = ("documents", "bytes", "tokens")


def passes_by_group(
    data: DataConfig, train_tokens: int, counted: Mapping[str, Mapping[str, int]], tokens: int
) -> dict[str, float]:
    """Epochs over the training split for a budget of ``tokens``, in total or by group of ``data.weights``.

    Args:
        train_tokens: Tokens of the training split.
        counted: Start, tokens and bytes of its groups; unused without weights.

    Raises:
        UserError: The weights do not name exactly the groups of the text.
    """
    groups = groups_of(data, counted)
    if not groups:
        return {"all": tokens / max(1, train_tokens)}
    return {group.name: tokens * group.share / max(1, group.tokens) for group in groups}


def passes_in_words(passes: dict[str, float]) -> str:
    """Format epochs for a plan: "0.8", or "en 0.8, zh 1.2"."""
    return ", ".join(f"{count:.2g}" if name == "all" else f"{name} {count:.2g}" for name, count in passes.items())
