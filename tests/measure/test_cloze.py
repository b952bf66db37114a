from __future__ import annotations

import random

import pytest
import torch

from tinylm_ablate.measure import cloze, scoring
from tinylm_ablate.measure.cloze import CHOICES, Question, accuracy, answer, questions
from tinylm_ablate.measure.scoring import Continuing, Family, Reader, continuation_losses, token_losses

CONTEXT, CONTINUATION = 40, 20


def ask(texts, language="en", count=100):
    return questions(texts, "test", language, count, CONTEXT, CONTINUATION)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_questions_are_made_of_held_out_text(texts, language):
    documents = {document.hash: document.text for document in texts.documents("test", language)}
    asked = ask(texts, language)
    assert len(asked) == sum(len(text) >= CONTEXT + CONTINUATION for text in documents.values())
    assert len({question.document for question in asked}) == len(asked)
    for question in asked:
        assert len(question.context) == CONTEXT
        assert len(set(question.choices)) == 4
        assert all(len(choice) == CONTINUATION for choice in question.choices)
        truth = question.choices[question.answer]
        assert question.context + truth in documents[question.document]
        for choice in question.choices:
            assert any(choice in text for text in documents.values())
            assert choice is truth or choice not in documents[question.document]
            assert choice.startswith(" ") == (language == "en")
    assert {question.answer for question in asked} == {0, 1, 2, 3}


def test_questions_depend_only_on_the_text(texts):
    random.seed(1)
    torch.manual_seed(1)
    assert ask(texts) == ask(texts)
    assert ask(texts, count=5) != []
    # Another language, or documents in another split, change nothing.
    other = type(texts)({"test": list(texts.documents("test", "en")), "validation": []})
    assert ask(other) == ask(texts)


def test_fewer_documents_give_fewer_questions(texts):
    long = [document for document in texts.documents("test", "en") if len(document.text) >= CONTEXT + CONTINUATION]
    for available, expected in ((0, 0), (3, 0), (4, 4), (7, 7)):
        assert len(ask(type(texts)({"test": long[:available]}))) == expected
    assert len(ask(texts, count=3)) == 3
    assert ask(texts, count=0) == []
    assert ask(texts, language="fr") == []


def test_copies_of_one_text_give_no_questions(texts):
    sample = max(texts.documents("test", "en"), key=lambda document: len(document.text))
    copies = [type(sample)("same " * 30, "en", f"hash {number}") for number in range(10)]
    for question in ask(type(texts)({"test": copies})):
        assert len(set(question.choices)) == 4


class Oracle:
    """A model for which the tokens of one text have a low loss, and all others a high loss."""

    training = False

    def __init__(self, cheap):
        self.cheap = torch.tensor(sorted(cheap))

    def train(self, mode=True):
        self.training = mode

    def loss(self, tokens, targets, reduction="mean"):
        del tokens, reduction
        return torch.where(torch.isin(targets, self.cheap), 0.1, 5.0)

    def continuation_loss(self, tokens, targets, layout):
        del layout
        return self.loss(tokens, targets)


def test_the_true_choice_is_recognized_at_any_place(vocabulary):
    choices = (" aaaa aaaa", " eeee eeee", " iiii iiii", " oooo oooo")
    asked = [Question("en", str(place), "the context", choices, place) for place in range(4)]
    for cheap in range(4):
        rows = answer(Reader(Oracle(vocabulary.encode_batch([choices[cheap]])[0]), vocabulary, 64, "cpu"), asked)
        for place, row in enumerate(rows):
            assert row["correct"] == (place == cheap)
            assert (row["margin"] > 0) == (place == cheap)


def test_only_the_choice_is_scored_and_by_byte(model, vocabulary):
    question = Question("en", "q", "sha the lon", (" the", " 的一是", " seen her", " x"), 1)
    (row,) = answer(Reader(Continuing(model), vocabulary, 64, "cpu"), [question])
    prefix = [vocabulary.end_of_text, *vocabulary.encode_batch([question.context])[0]]
    scores = []
    for choice in question.choices:
        tokens = vocabulary.encode_batch([choice])[0]
        with torch.no_grad():
            log_p = model(torch.tensor([[*prefix, *tokens]]))[0].log_softmax(-1)
        total = sum(float(log_p[len(prefix) + place - 1, token]) for place, token in enumerate(tokens))
        scores.append(total / len(choice.encode()))
    expected = scores[1] - max(scores[0], *scores[2:])
    assert row["margin"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("context_length", [1, 2, 5, 12])
def test_a_short_context_keeps_the_end_of_the_text_for_all_choices_alike(model, vocabulary, context_length):
    choices = (" the seen", " x", " hat", " lon")
    long = Question("en", "q", "one two three four five six seven", choices, 0)
    room = max(1, context_length + 1 - max(len(tokens) for tokens in vocabulary.encode_batch(list(choices))))
    kept = vocabulary.encode_batch([long.context])[0][-room:]
    (row,) = answer(Reader(Continuing(model), vocabulary, context_length, "cpu"), [long])
    scores = []
    for choice in choices:
        sequence = torch.tensor([*kept, *vocabulary.encode_batch([choice])[0]])
        nats = 0.0
        for place in range(len(kept), len(sequence)):
            start = (place - 1) // context_length * context_length
            with torch.no_grad():
                nats -= float(model(sequence[None, start:place])[0, -1].log_softmax(-1)[sequence[place]])
        scores.append(-nats / len(choice.encode()))
    assert row["margin"] == pytest.approx(scores[0] - max(scores[1:]), rel=1e-4)


def test_an_uninformed_model_reaches_chance(vocabulary):
    """With equal scores the first choice is selected, and the place of the true choice is random."""

    class Even(Oracle):
        def loss(self, tokens, targets, reduction="mean"):
            del tokens, reduction
            return torch.zeros(targets.shape)

    choices = (" aaa", " eee", " iii", " ooo")
    asked = [Question("en", str(n), "context", choices, cloze._draw(4, str(n), "answer")) for n in range(2000)]
    rows = answer(Reader(Even([0]), vocabulary, 64, "cpu"), asked)
    assert [row["correct"] for row in rows] == [question.answer == 0 for question in asked]
    assert accuracy(rows)[0]["en"] == pytest.approx(0.25, abs=0.03)


def test_accuracy_and_its_standard_error():
    def rows(language, right, wrong):
        return [{"language": language, "question": "", "correct": n < right, "margin": 0.0} for n in range(right + wrong)]

    shares, errors = accuracy([*rows("zh", 10, 30), *rows("en", 60, 40)])
    assert shares == pytest.approx({"en": 0.6, "zh": 0.25, "all": 0.425})
    en, zh = (0.6 * 0.4 / 100) ** 0.5, (0.25 * 0.75 / 40) ** 0.5
    assert errors == pytest.approx({"en": en, "zh": zh, "all": (en**2 + zh**2) ** 0.5 / 2})
    assert accuracy([]) == ({}, {})


@pytest.mark.parametrize("budget", [1, 60, 2048])
def test_continuations_cost_as_much_as_each_sequence_alone(model, monkeypatch, budget):
    """To 1e-5 nats per token, whatever shares a batch."""
    draw = random.Random(2)

    def ids(most):
        return [draw.randrange(300) for _ in range(draw.randint(1, most))]

    families = [Family(ids(60), [ids(20) for _ in range(CHOICES)]) for _ in range(30)]
    monkeypatch.setitem(scoring._MAX_TOKENS, "cpu", budget)
    found = continuation_losses(Continuing(model), families, vocab_size=400, device="cpu")
    sequences = [[*family.text, *own] for family in families for own in family.continuations]
    losses = token_losses(model, sequences, context_length=80, vocab_size=400, device="cpu")
    for family, four in zip(families, found, strict=True):
        for own, nats in zip(family.continuations, four, strict=True):
            assert nats == pytest.approx(losses.pop(0)[-len(own) :].sum(), abs=1e-5 * len(own))
    assert continuation_losses(Continuing(model), [], vocab_size=400, device="cpu") == []


def test_the_model_is_left_in_its_mode(model):
    for mode in (True, False):
        model.train(mode)
        continuation_losses(Continuing(model), [Family([1], [[2], [3, 4]])], vocab_size=400, device="cpu")
        assert model.training is mode
