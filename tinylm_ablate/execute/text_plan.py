"""Corpus in a plan: its size, the epochs of a budget, and files that were not read."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tinylm_ablate.data.corpus import described, open_corpus, passed_over, passed_over_lines
from tinylm_ablate.data.corpus_summary import MANY_PASSES, fate, passes_by_group
from tinylm_ablate.data.integrity import read_sealed
from tinylm_ablate.data.mixing import grouped_by
from tinylm_ablate.data.sources import open_source
from tinylm_ablate.data.text_sets import TEXT_SETS
from tinylm_ablate.settled import Settled

#: Bytes of text per token: one for a vocabulary of bytes, and about half a byte more for each doubling, up to this.
_MOST_BYTES_PER_TOKEN = 4.5


def bytes_per_token(vocab_size: int) -> float:
    """Estimate the bytes of text per token of a vocabulary.

    Measured on English and Chinese in equal parts. Text in one language has up to 1.5 times as many, and so fewer tokens.
    """
    return min(_MOST_BYTES_PER_TOKEN, 1 + 0.52 * max(0.0, math.log2(vocab_size / 257)))


def corpus_summary(settled: Settled) -> dict[str, Any] | None:
    """Return the summary of a corpus; None if it is not built yet."""
    return _sealed(settled.cache / "text" / settled.text / "corpus.json")


def _sealed(path: Path) -> dict[str, Any] | None:
    """Cached ``read_sealed`` while the file does not change: all cells of a grid request the same."""
    try:
        return _read(path, path.stat().st_mtime_ns)
    except OSError:
        return None


@functools.lru_cache(maxsize=256)
def _read(path: Path, version: int) -> dict[str, Any] | None:
    del version
    return read_sealed(path)


def shard_bytes(settled: Settled) -> int | None:
    """Estimate the size of the token shards that a run must create; 0 if they exist, None for an unread text."""
    if (settled.shards / "shards.json").exists():
        return 0
    corpus = corpus_summary(settled)
    if corpus is None:
        return None
    size = sum(sum(counts.values()) for counts in corpus["bytes"].values())
    return round(size / bytes_per_token(settled.shape.vocab_size)) * (2 if settled.shape.vocab_size <= 2**16 else 4)


def _counted(settled: Settled) -> dict[str, Any] | None:
    """Return the summary of the token shards; None before the text is tokenized."""
    return _sealed(settled.shards / "shards.json")


def training_tokens(settled: Settled) -> int | None:
    """Return the tokens of the training split, counted or estimated; None if the size of the text is unknown."""
    if (counted := _counted(settled)) is not None:
        return int(counted["tokens"]["train"])
    corpus, data = corpus_summary(settled), settled.config.data
    if corpus is not None:
        size: float = sum(corpus["bytes"]["train"].values())
    else:
        estimate = open_source(data, settled.cache).bytes_estimate()
        if estimate is None or data.max_documents is not None:
            return None
        size = estimate * (1 - data.validation_share - data.test_share)
    return max(1, round(size / bytes_per_token(settled.shape.vocab_size)))


def passes(settled: Settled) -> dict[str, float] | None:
    """Return the epochs of the run's budget over its training text, in total or by group of ``data.weights``.

    Groups are estimated from their bytes before the text is tokenized, and unknown before it is read (then the total is
    returned); None if the size of the text is unknown.

    Raises:
        UserError: The weights do not name exactly the groups of the text.
    """
    tokens, data = training_tokens(settled), settled.config.data
    if tokens is None:
        return None
    if (counted := _counted(settled)) is not None:
        groups = counted["groups"]
    elif (corpus := corpus_summary(settled)) is not None:
        by_source = {name: entry["bytes"] for name, entry in corpus["by_source"]["train"].items()}
        sizes = by_source if grouped_by(data) == "source" else corpus["bytes"]["train"]
        rate = bytes_per_token(settled.shape.vocab_size)
        groups = {name: {"start": 0, "tokens": round(size / rate), "bytes": size} for name, size in sizes.items()}
    else:
        data = dataclasses.replace(data, weights={})
        groups = {}
    return passes_by_group(data, tokens, groups, settled.tokens)


def text_lines(runs: Sequence[Settled], read_text: bool) -> list[str]:
    """Describe the corpora of some runs, and note runs with too many epochs.

    Args:
        runs: The runs.
        read_text: Whether to read and check the user's own text unless that is done (``plan.read_text``), like the run
            itself, which then need not repeat it.

    Raises:
        UserError: The user's text cannot be read.
    """
    lines = []
    for text in dict.fromkeys(run.text for run in runs):
        own = [run for run in runs if run.text == text]
        data = own[0].config.data
        if read_text and data.source not in TEXT_SETS and corpus_summary(own[0]) is None:
            open_corpus(data, own[0].cache)
        lines += _about(own[0])
        counts = [count for run in own if (count := passes(run)) is not None]
        if not counts:
            lines.append("  passes over it: unknown before it is read")
            continue
        names = sorted({name for count in counts for name in count})
        spans = (("" if names == ["all"] else f"{name} ") + _span([c[name] for c in counts if name in c]) for name in names)
        estimated = ", estimated before it is tokenized" if any(_counted(run) is None for run in own) else ""
        lines.append(f"  passes over its training tokens: {', '.join(spans)}{estimated}")
        many = sum(max(count.values()) > MANY_PASSES for count in counts)
        if many:
            lines.append(
                f"  note: {many} of {len(counts)} runs pass over it more than {MANY_PASSES:g} times, and repeated "
                "text is worth less: use more text, or a smaller budget"
            )
    return lines


def _span(values: Sequence[float]) -> str:
    least, most = f"{min(values):.2g}", f"{max(values):.2g}"
    return least if least == most else f"{least} to {most}"


def _about(run: Settled) -> list[str]:
    """Describe documents, languages and bytes of a corpus, and files that were not read."""
    data, corpus = run.config.data, corpus_summary(run)
    tokens, about = training_tokens(run), "" if _counted(run) is not None else "about "
    size = f"{about}{tokens / 1e6:,.1f}M training tokens" if tokens is not None else "of unknown size"
    name = data.path or data.name or data.source
    source = open_source(data, run.cache)
    skipped = passed_over_lines(passed_over(source.description() if corpus is None else described(corpus, source)))
    if corpus is None:
        return [f"text: {name}, not built yet, {size}", *skipped]
    kept = sum(sum(counts.values()) for counts in corpus["documents"].values())
    languages = sorted({language for counts in corpus["bytes"].values() for language in counts})
    sizes = {language: sum(counts.get(language, 0) for counts in corpus["bytes"].values()) for language in languages}
    shares = ", ".join(f"{language} {size / 1e6:,.1f} MB" for language, size in sizes.items())
    return [
        f"text: {name}, {size} ({shares})",
        f"  {corpus['read']:,} documents read, {kept:,} kept ({fate(corpus)})",
        *(f"  {line}" for line in skipped),
    ]
