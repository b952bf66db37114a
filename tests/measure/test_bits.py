from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tinylm_ablate.measure import scoring
from tinylm_ablate.measure.bits import DocumentRow, bits_per_byte, document_losses, first_bytes, standard_errors
from tinylm_ablate.measure.scoring import Reader, token_losses


def one_at_a_time(model, vocabulary, text, context_length):
    """Return the nats of a document by definition: one window, one forward pass."""
    sequence = torch.tensor([vocabulary.end_of_text, *vocabulary.encode_batch([text])[0]])
    nats = 0.0
    for start in range(0, len(sequence) - 1, context_length):
        window = sequence[start : start + context_length + 1]
        with torch.no_grad():
            logits = model(window[None, :-1])[0]
        nats += float(F.cross_entropy(logits, window[1:], reduction="sum"))
    return nats


@pytest.mark.parametrize("context_length", [8, 64, 1000])
def test_document_losses_equal_a_plain_loop(model, vocabulary, texts, context_length):
    documents = [*texts.documents("test", "en")][::4] + [*texts.documents("test", "zh")][::4]
    rows = document_losses(Reader(model, vocabulary, context_length, "cpu"), documents)
    expected = [one_at_a_time(model, vocabulary, document.text, context_length) for document in documents]
    np.testing.assert_allclose([row["nats"] for row in rows], expected, rtol=1e-5)
    assert [row["document"] for row in rows] == [document.hash for document in documents]
    assert [row["bytes"] for row in rows] == [len(document.text.encode()) for document in documents]
    for language in ("en", "zh"):
        nats = sum(value for value, document in zip(expected, documents, strict=True) if document.language == language)
        size = sum(len(document.text.encode()) for document in documents if document.language == language)
        assert bits_per_byte(rows)[language] == pytest.approx(nats / size / math.log(2), rel=1e-5)


def test_other_documents_in_a_batch_change_nothing(model, vocabulary, texts):
    documents = list(texts.documents("test"))
    alone = [document_losses(Reader(model, vocabulary, 64, "cpu"), [document])[0]["nats"] for document in documents]
    shuffled = random.Random(0).sample(documents, len(documents))
    together = {row["document"]: row["nats"] for row in document_losses(Reader(model, vocabulary, 64, "cpu"), shuffled)}
    np.testing.assert_allclose([together[document.hash] for document in documents], alone, rtol=1e-5)


def test_the_context_does_not_matter_if_a_document_fits(model, vocabulary, texts):
    longest = max(texts.documents("test"), key=lambda document: len(document.text))
    tokens = len(vocabulary.encode_batch([longest.text])[0])
    fits, spacious, short = (
        document_losses(Reader(model, vocabulary, length, "cpu"), [longest])[0]["nats"]
        for length in (tokens, 4 * tokens, tokens - 1)
    )
    assert fits == pytest.approx(spacious, rel=1e-6)
    assert fits != pytest.approx(short, rel=1e-6)  # the last token has lost its context


def test_small_batches_give_the_same_losses(model, vocabulary, texts, monkeypatch):
    documents = list(texts.documents("validation"))
    usual = document_losses(Reader(model, vocabulary, 32, "cpu"), documents)
    monkeypatch.setitem(scoring._MAX_TOKENS, "cpu", 1)
    single = document_losses(Reader(model, vocabulary, 32, "cpu"), documents)
    np.testing.assert_allclose([row["nats"] for row in single], [row["nats"] for row in usual], rtol=1e-5)


def test_the_model_is_left_unchanged(model, vocabulary, texts):
    for mode in (True, False):
        model.train(mode)
        document_losses(Reader(model, vocabulary, 32, "cpu"), list(texts.documents("test"))[:2])
        assert model.training is mode
        assert all(not parameter.is_inference() for parameter in model.parameters())


class Echo:
    """A model whose loss at each position encodes its input and target."""

    training = False

    def train(self, mode=True):
        self.training = mode

    def loss(self, tokens, targets, reduction="mean"):
        assert reduction == "none"
        return (1000 * tokens + targets).float()


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 30), max_size=12), st.integers(1, 9), st.integers(1, 40))
def test_each_token_is_predicted_once_from_the_token_before(lengths, context_length, budget):
    sequences = [list(range(100 * index, 100 * index + length)) for index, length in enumerate(lengths)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(scoring._MAX_TOKENS, "cpu", budget)
        losses = token_losses(Echo(), sequences, context_length=context_length, vocab_size=10, device="cpu")
    for sequence, values in zip(sequences, losses, strict=True):
        assert values.tolist() == [1000 * before + after for before, after in itertools.pairwise(sequence)]


def test_a_uniform_model_spends_log2_of_the_vocabulary_on_each_token(model, vocabulary, texts):
    uniform = type(model)(model.shape)  # all zero
    rows = document_losses(Reader(uniform, vocabulary, 64, "cpu"), texts.documents("test"))
    for language, bits in bits_per_byte(row for row in rows if row["language"] == "en").items():
        tokens, size = (sum(row[key] for row in rows if row["language"] == "en") for key in ("tokens", "bytes"))
        assert bits == pytest.approx(math.log2(vocabulary.size) * tokens / size, rel=1e-6), language


def row(language: str, nats: float, size: int) -> DocumentRow:
    return DocumentRow(language=language, document="", nats=nats, bytes=size, tokens=1)


def test_all_is_the_unweighted_mean_of_the_languages():
    rows = [row("zh", 30 * math.log(2), 10), row("en", 1000 * math.log(2), 1000), row("en", 1000 * math.log(2), 1000)]
    assert bits_per_byte(rows) == pytest.approx({"en": 1.0, "zh": 3.0, "all": 2.0})
    assert "all" not in standard_errors(rows)  # one Chinese document has no spread
    assert standard_errors(rows)["en"] == 0
    assert bits_per_byte([]) == standard_errors([]) == {}
    assert bits_per_byte([row("en", 0.0, 0)]) == {}


def test_the_standard_error_is_the_spread_of_resampled_corpora():
    random_source = np.random.default_rng(0)
    size = random_source.integers(50, 2000, 60)
    nats = size * random_source.normal(1.2, 0.2, 60)
    rows = [row("en", float(n), int(b)) for n, b in zip(nats, size, strict=True)]
    picks = random_source.integers(0, 60, (20_000, 60))
    resampled = nats[picks].sum(1) / size[picks].sum(1) / math.log(2)
    assert standard_errors(rows)["en"] == pytest.approx(resampled.std(), rel=0.05)
    both = rows + [row("zh", float(n), int(b)) for n, b in zip(nats, size, strict=True)]
    assert standard_errors(both)["all"] == pytest.approx(standard_errors(rows)["en"] / math.sqrt(2))


def test_a_budget_keeps_whole_documents_and_cuts_the_last_between_characters(texts):
    documents = list(texts.documents("test", "zh"))
    total = sum(len(document.text.encode()) for document in documents)
    for budget in (1, 2, 3, 50, 1000, total - 1, total, total + 1):
        taken = list(first_bytes(documents, budget))
        size = sum(len(document.text.encode()) for document in taken)
        assert min(budget, total) - 2 <= size <= budget  # a character here has three bytes
        assert "".join(document.text for document in documents).startswith("".join(document.text for document in taken))
        assert [document.hash for document in taken] == [document.hash for document in documents[: len(taken)]]
