"""The table of bigrams that a trained model must beat before its losses say anything about its design."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

#: Weight of the unigram in a bigram's estimate, as so many occurrences of the previous token.
PRIOR = 8.0


class BigramTable:
    """A table of bigrams, smoothed by unigrams: p(b | a) = (count(a, b) + w p(b)) / (count(a) + w), p(b) = (count(b) + 1) / (n
    + V).

    A Bayesian estimate with one prior for all contexts (MacKay and Peto 1995), about the least that a language model can learn.
    Memory is that of the different pairs, at most one per token.
    """

    def __init__(self, tokens: NDArray[np.integer], vocabulary: int, prior: float = PRIOR) -> None:
        """Counts.

        Args:
            tokens: Training tokens in order, (n,), as many as the model is trained on; n at least 2.
            vocabulary: Its size.
            prior: ``w``.
        """
        ids = np.asarray(tokens, dtype=np.int64)
        self._vocabulary, self._prior = vocabulary, prior
        unigrams = np.bincount(ids, minlength=vocabulary)
        self._unigram = (unigrams + 1) / (len(ids) + vocabulary)
        # As a context the last token has no successor.
        self._contexts = unigrams - np.bincount(ids[-1:], minlength=vocabulary)
        self._pairs, self._counts = np.unique(ids[:-1] * vocabulary + ids[1:], return_counts=True)

    def nats(self, tokens: NDArray[np.integer], start: int | None = None) -> NDArray[np.float64]:
        """Nats of each token of a document given the one before.

        Args:
            tokens: (m,).
            start: The token before the first; None scores the first by its unigram.

        Returns:
            (m,)
        """
        ids = np.asarray(tokens, dtype=np.int64)
        if not len(ids):
            return np.zeros(0)
        before = np.concatenate([[ids[0] if start is None else start], ids[:-1]])
        pairs = before * self._vocabulary + ids
        places = np.minimum(np.searchsorted(self._pairs, pairs), len(self._pairs) - 1)
        counts = np.where(self._pairs[places] == pairs, self._counts[places], 0)
        p = (counts + self._prior * self._unigram[ids]) / (self._contexts[before] + self._prior)
        if start is None:
            p[0] = self._unigram[ids[0]]
        found: NDArray[np.float64] = -np.log(p)
        return found

    def bits_per_byte(self, documents: Sequence[NDArray[np.integer]], sizes: Sequence[int], start: int | None = None) -> float:
        """Bits per byte over documents.

        Args:
            documents: Tokens of each.
            sizes: Bytes of each.
            start: The token before each document, such as the end-of-text token.
        """
        return math.fsum(float(self.nats(own, start).sum()) for own in documents) / sum(sizes) / math.log(2)
