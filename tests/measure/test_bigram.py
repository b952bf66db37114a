"""The table of bigrams compared with a count by dictionaries, and as probabilities."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinylm_ablate.measure.bigram import PRIORS, count_bigrams

VOCABULARY = 7
ids = st.integers(0, VOCABULARY - 1)


@given(st.lists(st.lists(st.lists(ids, min_size=5, max_size=5), min_size=1, max_size=6), min_size=1, max_size=4), st.data())
def test_counts_and_nats_are_those_of_the_formula(chunks: list[list[list[int]]], data: st.DataObject) -> None:
    table = count_bigrams((np.array(chunk) for chunk in chunks), VOCABULARY)
    pairs = Counter((a, b) for chunk in chunks for row in chunk for a, b in pairwise(row))
    contexts = Counter(a for a, _ in pairs.elements())
    unigrams = Counter(b for _, b in pairs.elements())
    total = sum(unigrams.values())
    sequences = data.draw(st.lists(st.lists(ids, min_size=1, max_size=8), min_size=1, max_size=5))
    prior = data.draw(st.sampled_from(PRIORS))
    expected = []
    for sequence in sequences:
        nats = 0.0
        for a, b in pairwise(sequence):
            p = (unigrams[b] + 1) / (total + VOCABULARY)
            nats -= math.log((pairs[a, b] + prior * p) / (contexts[a] + prior))
        expected.append(nats)
    assert table.score(sequences).nats(prior) == pytest.approx(expected)


@given(st.lists(st.lists(ids, min_size=3, max_size=3), min_size=1, max_size=20), st.sampled_from(PRIORS))
def test_probabilities_after_each_token_sum_to_one(rows: list[list[int]], prior: float) -> None:
    table = count_bigrams([np.array(rows)], VOCABULARY)
    for before in range(VOCABULARY):
        scored = table.score([[before, token] for token in range(VOCABULARY)])
        assert np.exp(-scored.token_nats(prior)).sum() == pytest.approx(1)


def test_the_prior_is_the_best_candidate() -> None:
    draw = np.random.default_rng(0)
    chain = draw.dirichlet(np.full(VOCABULARY, 0.3), VOCABULARY)

    def text(length: int) -> list[int]:
        tokens = [0]
        while len(tokens) < length:
            tokens.append(int(draw.choice(VOCABULARY, p=chain[tokens[-1]])))
        return tokens

    few, many = (count_bigrams([np.array([text(length)])], VOCABULARY) for length in (60, 6000))
    held = [text(500)]
    for table in (few, many):
        scored = table.score(held)
        nats = {prior: sum(scored.nats(prior)) for prior in PRIORS}
        assert nats[scored.best_prior()] == min(nats.values())
    entropy = -np.log(chain[held[0][:-1], held[0][1:]]).sum()
    assert sum(many.score(held).nats(many.score(held).best_prior())) == pytest.approx(entropy, rel=0.05)
    assert sum(few.score(held).nats(few.score(held).best_prior())) > 1.05 * entropy
