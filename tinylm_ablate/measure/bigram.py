"""Bits per byte of a bigram table counted on a run's training text.

A model must beat this table before its loss is informative about its design.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tinylm_ablate import progress
from tinylm_ablate.data.training import training_batches
from tinylm_ablate.measure.bits import DocumentRow, bits_per_byte, first_bytes, named, standard_errors
from tinylm_ablate.measure.subject import Result, Settings, Subject
from tinylm_ablate.settled import Settled

Int64s = npt.NDArray[np.int64]
Float64s = npt.NDArray[np.float64]

#: Weights of the unigram to try on validation text, as numbers of occurrences of the preceding token.
PRIORS = tuple(2.0**power for power in range(-2, 15))
#: Maximum number of tokens to count: more hardly change the table, and a budget of billions would take hours.
_MOST_TOKENS = 1 << 26
#: Tokens to count at a time.
_CHUNK = 1 << 21


class Bigrams:
    """Bits per byte of held-out text under bigrams counted on the run's training sequences, each once."""

    name = "bigrams"
    weights = False

    def requests(self, run: Settled) -> list[dict[str, Any]]:
        """One set of settings; none for a model that is not trained here."""
        return [] if not run.tokens else [{"max_bytes": run.config.evaluate.max_bytes, "tokens": min(run.tokens, _MOST_TOKENS)}]

    def measure(self, subject: Subject, settings: Settings) -> Result:
        """Count, choose the smoothing on validation text, and score the documents of ``bits_per_byte``.

        Returns:
            ``test/bigrams/bits_per_byte/en`` and so on for both splits, like those of ``bits_per_byte``; ``bigrams/tokens``,
            the number of tokens counted; and ``bigrams/prior``, the weight of the unigram. One row per document.
        """
        config, vocabulary, corpus = subject.run.config, subject.vocabulary, subject.corpus
        batches = training_batches(subject.shards.tokens("train"), config, subject.run.shards)
        length = config.train.context_length
        # A second pass over the text would only count everything twice.
        sequences = max(1, min(settings["tokens"] // length, batches.fresh))
        step = max(1, _CHUNK // length)
        with progress.bar(total=sequences * length, description="counting bigrams", unit="tok") as bar:

            def windows() -> Iterable[Int64s]:
                for start in range(0, sequences, step):
                    found = batches.inputs(np.arange(start, min(start + step, sequences), dtype=np.int64))
                    yield found
                    bar.update(found.shape[0] * length)

            table = count_bigrams(windows(), vocabulary.size)
        prior: float | None = None
        rows: list[dict[str, Any]] = []
        metrics: dict[str, float] = {}
        for split in ("validation", "test"):
            documents = [
                document
                for language in corpus.languages
                for document in first_bytes(corpus.documents(split, language), settings["max_bytes"])
            ]
            encoded = vocabulary.encode_batch([document.text for document in documents])
            scored = table.score([[vocabulary.end_of_text, *tokens] for tokens in encoded])
            if prior is None:
                prior = scored.best_prior()
            measured = [
                DocumentRow(
                    language=document.language, document=document.hash, nats=nats, bytes=len(document.text.encode()),
                    tokens=len(tokens),
                )
                for document, tokens, nats in zip(documents, encoded, scored.nats(prior), strict=True)
            ]  # fmt: skip
            name = f"{split}/bigrams/bits_per_byte"
            metrics |= named(name, bits_per_byte(measured)) | named(name, standard_errors(measured), "/standard_error")
            rows += [{"split": split, **row} for row in measured]
        assert prior is not None
        return Result(metrics | {"bigrams/tokens": float(sequences * length), "bigrams/prior": prior}, rows)


@dataclass(frozen=True)
class BigramTable:
    """Counts of bigrams, and the resulting probabilities.

    p(b | a) = (count(a, b) + w p(b)) / (count(a) + w) with p(b) = (count(b) + 1) / (n + V): a Bayesian estimate with one prior
    for all contexts (MacKay and Peto 1995), about the minimum that a language model can learn.

    Attributes:
        vocabulary: V, the number of ids.
        pairs: a * V + b for each pair (a, b) that occurs, sorted, (m,).
        counts: Number of occurrences of each, (m,).
        contexts: Number of pairs that start with each id, (V,).
        unigram: p(b), (V,).
    """

    vocabulary: int
    pairs: Int64s
    counts: Int64s
    contexts: Int64s
    unigram: Float64s

    def score(self, sequences: Sequence[Sequence[int]]) -> Scored:
        """Look up each token of each sequence except the first, given the preceding one."""
        lengths = [max(0, len(sequence) - 1) for sequence in sequences]
        before = np.array([token for sequence in sequences for token in sequence[:-1]], dtype=np.int64)
        tokens = np.array([token for sequence in sequences for token in sequence[1:]], dtype=np.int64)
        pairs = before * self.vocabulary + tokens
        places = np.minimum(np.searchsorted(self.pairs, pairs), len(self.pairs) - 1)
        counts = np.where(self.pairs[places] == pairs, self.counts[places], 0)
        return Scored(counts, self.contexts[before], self.unigram[tokens], np.cumsum([0, *lengths]))


@dataclass(frozen=True)
class Scored:
    """Sequences with their counts in a table, for any weight of the unigram.

    Attributes:
        counts: Count of each pair, (tokens,).
        contexts: Count of its first id, (tokens,).
        unigram: p of its second id, (tokens,).
        ends: Start of each sequence and end of the last, (sequences + 1,).
    """

    counts: Int64s
    contexts: Int64s
    unigram: Float64s
    ends: Int64s

    def token_nats(self, prior: float) -> Float64s:
        """Nats of each token, (tokens,)."""
        nats: Float64s = -np.log((self.counts + prior * self.unigram) / (self.contexts + prior))
        return nats

    def nats(self, prior: float) -> list[float]:
        """Nats of each sequence."""
        summed = np.concatenate([[0.0], np.cumsum(self.token_nats(prior))])
        return [float(nats) for nats in np.diff(summed[self.ends])]

    def best_prior(self) -> float:
        """Return the weight in ``PRIORS`` with the fewest nats over all sequences."""
        return min(PRIORS, key=lambda prior: float(self.token_nats(prior).sum()))


def count_bigrams(windows: Iterable[Int64s], vocabulary: int) -> BigramTable:
    """Count the adjacent pairs in windows of token ids.

    Memory holds the distinct pairs and one chunk of windows.

    Args:
        windows: Chunks (n, T + 1); each adjacent pair in a row counts once.
        vocabulary: Number of ids.
    """
    pairs, counts = np.zeros(0, np.int64), np.zeros(0, np.int64)
    for chunk in windows:
        ids = np.asarray(chunk, dtype=np.int64)
        found, often = np.unique((ids[:, :-1] * vocabulary + ids[:, 1:]).ravel(), return_counts=True)
        merged, places = np.unique(np.concatenate([pairs, found]), return_inverse=True)
        counts = np.bincount(places, weights=np.concatenate([counts, often]), minlength=len(merged)).astype(np.int64)
        pairs = merged
    contexts = np.bincount(pairs // vocabulary, weights=counts, minlength=vocabulary).astype(np.int64)
    seen = np.bincount(pairs % vocabulary, weights=counts, minlength=vocabulary)
    return BigramTable(vocabulary, pairs, counts, contexts, (seen + 1) / (seen.sum() + vocabulary))
